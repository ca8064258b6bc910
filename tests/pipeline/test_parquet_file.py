"""A parquet file is read by the calling thread alone: no thread of Arrow's is started, and every read is pyarrow's."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from winnow.pipeline.parquet_file import ParquetFile

TEXTS, LISTS = [f"text {i}" for i in range(3000)], [[0.5, float(i)] for i in range(3000)]
TABLE = pa.table({"a": range(3000), "b": TEXTS, "c": LISTS})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "t.parquet", row_group_size=1000)
    return tmp_path / "t.parquet"


@pytest.mark.parametrize("buffer_bytes", [0, 1 << 20])
def test_reads_are_those_of_pyarrow(path: Path, buffer_bytes: int) -> None:
    with open(path, "rb") as file:
        found = ParquetFile(file, buffer_bytes)
        assert found.schema_arrow == TABLE.schema
        assert found.read().equals(TABLE)
        assert found.read(["b", "a"]).equals(TABLE.select(["b", "a"]))
        assert found.read_row_group(1, ["a"]).equals(TABLE.select(["a"]).slice(1000, 1000))
        assert found.read_row_groups([0, 2]).num_rows == 2000
        batches = list(found.iter_batches(700, row_groups=[1], columns=["b"]))
    assert [batch.num_rows for batch in batches] == [700, 300]
    assert pa.Table.from_batches(batches).equals(TABLE.select(["b"]).slice(1000, 1000))


READS = """
import sys, threading
from pathlib import Path
from winnow.pipeline.artifact import read_schema, read_table
from winnow.pipeline.parquet_file import ParquetFile
from winnow.stages.pools.columns import open_parquet

def threads():
    return sorted(int(task.name) for task in Path("/proc/self/task").iterdir())

before = threads()
read_schema(sys.argv[1])
read_table(sys.argv[1])
with open_parquet(sys.argv[1]) as file:
    list(file.iter_batches(100))
    file.read()
    file.read_row_groups([0, 1])
print(before == threads())
"""


def test_no_thread_of_arrow_reads_and_may_outlive_the_interpreter(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READS, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
