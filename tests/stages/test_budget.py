"""What a run bears of bad input: to the sample and the shard, with a table that says what to do, and nothing lost."""

from pathlib import Path

import numpy as np
import pytest

from tests.pools import READER, Filtered, Samples, opened, write_datacomp, write_vectors
from winnow.pipeline.artifact import write_table
from winnow.pipeline.errors import FailedShards, RejectsError
from winnow.pipeline.stage import Limits
from winnow.stages.budget import check_rejects
from winnow.stages.cuts.density import Density
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.cuts.negclip import Negclip
from winnow.stages.cuts.similarity import Similarity
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.reader import Reader
from winnow.stages.rejects import LIKE, NO_VECTORS, UNREADABLE, read_rejects


def made(folder: Path, urls: tuple[str, ...], limits: Limits, reader: Reader = READER) -> Filtered:
    """The samples of a pool and the vectors that it brings, with these limits; nothing is checked."""
    return opened(urls, reader, str(folder / "store"), limits)


def check(pool: Filtered) -> None:
    check_rejects(pool.run, pool.survivors.samples, pool.artifact("vectors"))


def some_bad() -> Samples:
    """100 samples, of which 3 have a vector of zeros and 2 one that is not finite."""
    samples = Samples.drawn(100)
    samples.image[[10, 40, 41]] = 0
    samples.image[[60, 90]] = np.nan
    return samples


@pytest.mark.parametrize(("fraction", "holds"), [(0.05, True), (1.0, True), (0.0499, False), (0.0, False)])
def test_as_many_rejects_as_the_fraction_says_and_no_more(tmp_path: Path, fraction: float, holds: bool) -> None:
    pool = made(tmp_path, write_vectors(str(tmp_path / "pool"), some_bad(), 4), Limits(fraction))
    if holds:
        check(pool)
        return
    with pytest.raises(RejectsError) as error:
        check(pool)
    lines = str(error.value).splitlines()
    folder = f"{tmp_path}/pool"
    samples = some_bad()
    assert lines[0] == (
        f"{pool.artifact('vectors').name}: 5 of 100 samples are rejected, 5.00%, but limits.max_reject_fraction is "
        f"{fraction}:"
    )
    zero, nan = samples.uid[10], samples.uid[60]
    assert lines[1:3] == [
        f"  vector-zero                 3    3.00%  such as {folder}/00000.parquet, {zero}: "
        "a vector must be finite and not zero, but clip.image is zero",
        f"  vector-not-finite           2    2.00%  such as {folder}/00002.parquet, {nan}: "
        "a vector must be finite and not zero, but clip.image is missing, or holds NaN or infinity",
    ]
    assert "raise the limit. All files are kept" in lines[3]


def test_a_pool_of_nothing_is_within_any_limit(tmp_path: Path) -> None:
    check(made(tmp_path, write_vectors(str(tmp_path / "pool"), Samples.drawn(0)), Limits(0.0)))


def test_the_table_obeys_no_terminal_codes(tmp_path: Path) -> None:
    samples = Samples.drawn(2)
    samples.image[0] = 0
    [url] = write_vectors(str(tmp_path / "pool"), samples)
    pool = made(tmp_path, (url,), Limits(0.0))
    rejects = read_rejects(pool.artifact("vectors"), 0)
    key = rejects.column_names.index("key")
    evil = rejects.set_column(key, "key", [["\x1b[2Jgone\r\n\u202e"]])
    write_table(pool.artifact("vectors").meta("rejects/00000.parquet"), evil)
    with pytest.raises(RejectsError, match=r"00000\.parquet, \\x1b\[2Jgone\\r\\n\\u202e: a vector"):
        check(pool)


@pytest.mark.parametrize("layout", ["vectors", "datacomp"])
def test_so_many_shards_may_fail_and_their_samples_are_rejects(tmp_path: Path, layout: str) -> None:
    samples = Samples.drawn(30)
    if layout == "vectors":
        reader: Reader = READER
        urls, broken = write_vectors(str(tmp_path / "pool"), samples, 5), [0, 3]
        bad = [urls[n] for n in broken]
    else:
        reader = Datacomp(use=("l14",))
        urls, broken = write_datacomp(tmp_path / "pool", samples, 5), [0, 3]
        bad = [urls[n].replace(".parquet", ".npz") for n in broken]
    for path in bad:
        Path(path).write_bytes(Path(path).read_bytes()[:-9])
    for fewer in (0, 1):
        with pytest.raises(FailedShards, match="every shard must finish, but 2 of"):
            made(tmp_path, urls, Limits(1.0, fewer), reader)
    pool = made(tmp_path, urls, Limits(1.0, 2), reader)
    check(pool)
    assert pool.kept == [uid for n, uid in enumerate(samples.uid) if n // 6 not in broken]
    name = reader.encoders()[0]
    # a shard of which nothing is known is one reject; where the vectors are lost, each of its samples is
    rows, lost, kind = (0, 1, UNREADABLE) if layout == "vectors" else (6, 6, NO_VECTORS)
    out = pool.survivors.samples if layout == "vectors" else pool.survivors.encoder(name)
    report = pool.step("samples" if layout == "vectors" else "vectors").report
    assert (report["kept"], report["rejected"], report["rejects"]) == (18, 2 * lost, {kind: 2 * lost})
    for index in broken:
        assert out.read(index).num_rows == rows
        assert out.read(index).schema.remove_metadata().equals(out.read(1).schema.remove_metadata())
        assert out.summary(index)[LIKE] == urls[1]
        rejects = read_rejects(out, index).to_pylist()
        assert [row["kind"] for row in rejects] == [kind] * lost
        assert all("must be whole and readable" in row["message"] for row in rejects)
        none = pool.survivors.vectors(index, urls[index], name, "image", np.empty(0, np.int64))
        assert (none.shape, none.dtype) == ((0, 16), np.float16)
        assert list(pool.survivors.blocks(index, urls[index], name, "image", np.empty(0, np.int64))) == []
    # a job that bears fewer does not go on from there
    stricter = made(tmp_path, urls, Limits(1.0, 1), reader)
    assert stricter.steps[0].reused
    with pytest.raises(RejectsError, match=r"2 shards could not be read, but limits\.max_failed_shards is 1") as error:
        check(stricter)
    assert f"delete {out.folder}" in str(error.value)


def test_cuts_that_read_vectors_pass_over_the_shards_that_were_given_up(tmp_path: Path) -> None:
    samples = Samples.drawn(60)
    urls = write_vectors(str(tmp_path / "pool"), samples, 6)
    cuts = [
        Similarity(by="clip", fraction=0.9),
        Duplicates(by="clip", exact=False, epsilon=0.2, clusters=3),
        Negclip(by="clip", fraction=0.9),
        Density(by="clip", clusters=3, fraction=0.5),
    ]
    # the same pool without these shards is what must come out
    store = str(tmp_path / "without")
    alone = opened([url for n, url in enumerate(urls) if n not in (0, 4)], store=store).through(*cuts)
    for n in (0, 4):
        Path(urls[n]).write_bytes(b"no parquet")
    pool = made(tmp_path, urls, Limits(1.0, 2)).through(*cuts)
    assert pool.kept == alone.kept
    assert 5 < len(pool.kept) < 20


def test_a_pool_without_one_readable_shard_fails(tmp_path: Path) -> None:
    urls = write_vectors(str(tmp_path / "pool"), Samples.drawn(6), 2)
    for url in urls:
        Path(url).write_bytes(b"PAR1")
    with pytest.raises(FailedShards, match="2 of 2 failed"):
        made(tmp_path, urls, Limits(1.0, 9))
