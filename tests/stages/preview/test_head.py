"""The head of a shard is a shard: the same reader reads the same first rows of it, and little is asked for."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import FaultyProxy
from tests.pools import READER, Samples, members, pair, write_clip_retrieval, write_datacomp, write_tar, write_vectors
from winnow.pipeline import storage
from winnow.pipeline.errors import ShardError
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.reader import Reader
from winnow.stages.preview.head import table_head, tar_head

READERS: dict[str, Reader] = {
    "vectors": READER,
    "datacomp": Datacomp(use=("l14",)),
    "clip-retrieval": ClipRetrieval(),
}


def written(kind: str, folder: Path, samples: Samples) -> str:
    if kind == "vectors":
        return write_vectors(str(folder), samples)[0]
    return {"datacomp": write_datacomp, "clip-retrieval": write_clip_retrieval}[kind](folder, samples)[0]


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("rows", [1, 7, 30, 31])
def test_first_rows_are_those_of_the_shard(tmp_path: Path, kind: str, rows: int) -> None:
    reader, url = READERS[kind], written(kind, tmp_path / "pool", Samples.drawn(30))
    head = table_head(url, reader.companions(url), rows, tmp_path / "head")
    assert (head.rows, head.whole_rows, head.whole) == (min(rows, 30), 30, rows >= 30)
    table, rejects = reader.rows(head.url)
    assert rejects == []
    assert table.equals(reader.rows(url)[0].slice(0, rows))
    name = reader.encoders()[0]
    vectors = reader.vectors(head.url, name, "text", None)
    assert np.array_equal(vectors, reader.vectors(url, name, "text", None)[:rows])


@pytest.mark.parametrize("array", [np.ones((3, 2, 2)), np.asfortranarray(np.ones((3, 2))), np.array([{}], object)])
def test_an_array_that_no_reader_takes_is_refused_as_the_whole_one_is(tmp_path: Path, array: np.ndarray) -> None:
    url = written("clip-retrieval", tmp_path / "pool", Samples.drawn(3))
    np.save(tmp_path / "pool/img_emb/img_emb_0.npy", array, allow_pickle=True)
    reader = READERS["clip-retrieval"]
    head = table_head(url, reader.companions(url), 2, tmp_path / "head")
    said = []
    for one in (url, head.url):
        with pytest.raises(ShardError) as error:
            reader.sound(one, reader.encoders())
        said.append(head.told(str(error.value)))
    assert said[0].split("shape")[0] == said[1].split("shape")[0]


def test_a_broken_file_is_a_shard_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ShardError, match=r"a\.parquet: the file must be whole and readable"):
        table_head(str(tmp_path / "a.parquet"), [], 5, tmp_path / "head")


def test_a_file_that_is_no_parquet_is_told_as_what_it_is(tmp_path: Path) -> None:
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, pa.schema([])) as stream:
        stream.write_table(pa.table({}))
    with pytest.raises(ShardError, match=r"a\.arrow: the file must be .* parquet, but it is an Arrow file"):
        table_head(str(tmp_path / "a.arrow"), [], 5, tmp_path / "head")


def test_the_head_of_a_tar_is_its_first_bytes(tmp_path: Path) -> None:
    url = write_tar(tmp_path / "a.tar", members([(f"{n:03d}", pair(n, "a caption")) for n in range(30)]))
    head = tar_head(url, 10_000, tmp_path / "head")
    assert not head.whole
    assert Path(head.url).read_bytes() == Path(url).read_bytes()[:10_000]
    assert tar_head(url, 10_000_000, tmp_path / "all").whole
    assert head.told(f"{head.url} is cut") == f"{url} is cut"


def test_of_a_remote_shard_little_is_asked_for(s3_store: str, counted: FaultyProxy, tmp_path: Path) -> None:
    """A tar of 12 MB and a parquet of 12 MB, of which 1 MB and 8 rows are read."""
    blocks = [np.random.default_rng(n).bytes(400_000) for n in range(30)]
    tar = write_tar(tmp_path / "a.tar", [(f"{n:03d}.jpg", block) for n, block in enumerate(blocks)])
    storage.write_bytes(f"{s3_store}/head/a.tar", Path(tar).read_bytes())
    buffer = io.BytesIO()
    table = pa.table({"caption": [f"a {n}" for n in range(30)], "image": blocks})
    pq.write_table(table, buffer, row_group_size=30, compression="none", data_page_size=1 << 18)
    storage.write_bytes(f"{s3_store}/head/a.parquet", buffer.getvalue())
    before = sum(counted.requests.values())
    assert tar_head(f"{s3_store}/head/a.tar", 1 << 20, tmp_path / "t").bytes == 1 << 20
    middle = sum(counted.requests.values())
    assert table_head(f"{s3_store}/head/a.parquet", [], 8, tmp_path / "p").rows == 8
    assert middle - before == 2, "where it ends, and the megabyte"
    assert sum(counted.requests.values()) - middle < 9, "the footer, and a megabyte at a time"
