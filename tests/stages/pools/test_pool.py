"""The listing of a pool: order, identity of companion files, and what is refused before anything is read."""

import os
from pathlib import Path

import pytest

from tests.pools import Samples, write_clip_retrieval, write_datacomp, write_tar
from winnow.pipeline.artifact import DONE, read_json, read_table, write_json
from winnow.pipeline.errors import DataError, PoolError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.fingerprint import canonical, fingerprint
from winnow.pipeline.stage import Run, artifact_of, execute
from winnow.pipeline.storage import Identity
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.pool import Pool, PoolStage
from winnow.stages.pools.webdataset import Webdataset


def test_shards_are_listed_in_order(tmp_path: Path) -> None:
    urls = [write_tar(tmp_path / f"{n}.tar", [(f"{n}.txt", b"x" * n)]) for n in range(4)]
    listed = Pool((f"{tmp_path}/{{2..3}}.tar", f"{tmp_path}/[01].tar"), Webdataset()).identities()
    assert [shard.url for shard in listed] == [urls[2], urls[3], urls[0], urls[1]]
    run = Run(str(tmp_path / "store"), LocalExecutor(1), listed)
    step = execute(PoolStage(listed), run)
    table = read_table(step.artifact.file("shards.parquet"))
    assert table["url"].to_pylist() == [shard.url for shard in listed]
    assert table["shard"].to_pylist() == [0, 1, 2, 3]
    assert step.report["bytes"] == sum(os.path.getsize(url) for url in urls)
    assert step.report["shards"] == 4


def test_done_holds_the_fingerprint_of_the_list_of_shards_and_not_the_list(tmp_path: Path) -> None:
    """Every command reads `_done.json`: for 200,000 shards the list would be 34 MB of it."""
    listed = tuple(Identity(f"/pool/{n:05d}.tar", n, "x" * 32) for n in range(1_000))
    run = Run(str(tmp_path), LocalExecutor(1), listed)
    made = execute(PoolStage(listed), run).artifact
    assert os.path.getsize(made.meta(DONE)) < 500
    assert execute(PoolStage(listed), run).reused
    # two lists of one name: what is there is not believed
    done = {**read_json(made.meta(DONE)), "config": {"shards": fingerprint(listed[:-1], 32)}}
    write_json(made.meta(DONE), done)
    with pytest.raises(DataError, match=r"its shards is '[0-9a-f]{32}' and the job's is '[0-9a-f]{32}'"):
        execute(PoolStage(listed), run)
    # a store of before has the whole list there
    for shards, same in ((listed, True), (listed[:-1], False)):
        write_json(made.meta(DONE), {**done, "config": {"shards": canonical(shards)}})
        if same:
            assert execute(PoolStage(listed), run).reused
            continue
        with pytest.raises(DataError, match="two configurations have the same fingerprint"):
            execute(PoolStage(listed), run)


def test_a_list_of_urls_may_stand_in_a_file(tmp_path: Path) -> None:
    urls = [write_tar(tmp_path / f"{n}.tar", [("a.txt", b"")]) for n in range(2)]
    (tmp_path / "pool.txt").write_text("# mine\n" + "\n".join(reversed(urls)) + "\n\n")
    assert [s.url for s in Pool((f"{tmp_path}/pool.txt",), Webdataset()).identities()] == urls[::-1]


def test_a_companion_is_part_of_its_shards_identity(tmp_path: Path) -> None:
    [url] = write_datacomp(tmp_path, Samples.drawn(5))
    pool = Pool((url,), Datacomp(use=("l14",)))
    before = pool.identities()
    npz = Path(url.removesuffix(".parquet") + ".npz")
    assert before[0].size == os.path.getsize(url) + npz.stat().st_size
    os.utime(npz, (1, 1))
    after = pool.identities()
    assert after != before
    assert artifact_of(PoolStage(after), "s") != artifact_of(PoolStage(before), "s")
    npz.unlink()
    with pytest.raises(PoolError, match=r"1 of 2 are not.*\.npz"):
        pool.identities()


def test_a_pool_without_text_vectors_is_told_how_to_say_so(tmp_path: Path) -> None:
    urls = write_clip_retrieval(tmp_path / "a", Samples.drawn(9), shards=2)
    for text in tmp_path.glob("a/text_emb/*.npy"):
        text.unlink()
    said = r"2 of 6 are not: .*text_emb_0\.npy, .*text_emb_1\.npy; for a pool without text_emb set pool\.text: false$"
    with pytest.raises(PoolError, match=said):
        Pool(urls, ClipRetrieval()).identities()
    assert len(Pool(urls, ClipRetrieval(text=False)).identities()) == 2
    (tmp_path / "a/img_emb/img_emb_1.npy").unlink()
    with pytest.raises(PoolError, match=r"3 of 6 are not: .*text_emb_1\.npy$"):
        Pool(urls, ClipRetrieval()).identities()


def test_a_pool_that_names_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(PoolError, match=r"a pool must have at least one shard, but .*empty\.txt names none"):
        Pool((f"{tmp_path}/empty.txt",), Webdataset()).identities()
    with pytest.raises(PoolError, match="must match at least one file, but nothing matches"):
        Pool((f"{tmp_path}/*.tar",), Webdataset()).identities()
    url = write_tar(tmp_path / "a.tar", [("a.txt", b"")])
    with pytest.raises(PoolError, match="a pool must name each shard once"):
        Pool((url, url), Webdataset()).identities()
