"""Artifacts: the folder that a stage makes in a store, with a parquet file per shard and `_done.json` written last.

The first holds data files alone (00000.parquet …), so that any program reads it as one table: some read every file of
a folder, those of hidden names and of folders in it too. Small files of the whole lie in the second.

A stage that rejects samples leaves `<name>.meta/rejects/00000.parquet …` too, each before the file of its shard, whose
summary counts them under `rejects`.

A file that is there is right, for it was committed whole; `_done.json` says that all are there, and what they weigh:
what another program tore is seen and made again. The folder's name carries the fingerprint of everything that it was
made from, so nothing has to be invalidated.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from winnow.pipeline import storage
from winnow.pipeline.errors import StorageError, TornError
from winnow.pipeline.parquet_file import ParquetFile
from winnow.pipeline.storage.remote_file import expect

DONE = "_done.json"
_SUMMARY = b"winnow"


@dataclass(frozen=True)
class Artifact:
    """What one stage leaves in the store, by name; holding one does not mean that it is made already.

    store: URL of the store. stage: its name. fingerprint: 16 hex digits over all that it is made from.
    """

    store: str
    stage: str
    fingerprint: str

    @classmethod
    def named(cls, store: str, folder: str) -> "Artifact":
        """The artifact of a folder such as `embeddings-3fa2c17bb71c2af3`. Raises ValueError for any other name."""
        if not is_artifact(folder):
            raise ValueError(f"a folder must be named as an artifact is, got {folder!r}")
        stage, _, mark = folder.rpartition("-")
        return cls(store, stage, mark)

    @property
    def name(self) -> str:
        """Folder name, such as `embeddings-3fa2c17bb71c2af3`."""
        return f"{self.stage}-{self.fingerprint}"

    @property
    def folder(self) -> str:
        """URL of the folder with the data: a file for each shard, and then no other."""
        return storage.join(self.store, self.name)

    @property
    def meta_folder(self) -> str:
        """URL of the folder beside it, with all that is not data by shard."""
        return f"{self.folder}.meta"

    def file(self, name: str) -> str:
        """URL of a data file."""
        return storage.join(self.folder, name)

    def meta(self, name: str) -> str:
        """URL of a file in the folder beside the data."""
        return storage.join(self.meta_folder, name)

    def shard(self, index: int) -> str:
        """URL of the file of input shard `index`."""
        return self.file(shard_name(index))

    def rejects(self, index: int) -> str:
        """URL of the rejects of input shard `index`, which is there where its summary counts any."""
        return self.meta(f"rejects/{shard_name(index)}")

    def columns(self, index: int) -> list[str]:
        """Column names of the table of shard `index`; reads the footer only."""
        return list(read_schema(self.shard(index)).names)

    def present(self, suffix: str = ".parquet") -> set[int]:
        """Indices of the shard files that are committed, by one list request."""
        # a shard file is committed whole, so its name is enough: no request a shard
        names = [storage.name_of(found.url) for found in storage.listing(self.folder)]
        stems = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
        return {int(stem) for stem in stems if stem.isdigit()}

    def read(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The table of shard `index`, these columns only; no other column's bytes are read."""
        return read_table(self.shard(index), columns)

    def write(self, index: int, table: pa.Table, summary: Mapping[str, object]) -> None:
        """Commit the table of shard `index` with its summary (small JSON, such as counts) in the footer."""
        write_table(self.shard(index), table, summary)

    def summary(self, index: int) -> dict[str, object]:
        """The summary that was committed with shard `index`; reads the footer only."""
        return read_summary(self.shard(index))

    def summary_if_whole(self, index: int) -> dict[str, object] | None:
        """The same, None where a file of the shard is torn: cut short or empty, as an interrupted copy leaves it."""
        try:
            found = self.summary(index)
            if found.get("rejects"):
                if not storage.exists(self.rejects(index)):
                    return None
                read_schema(self.rejects(index))
        except TornError:
            return None
        return found

    def weight(self, report: Mapping[str, object]) -> dict[str, int]:
        """Number and bytes of the files directly in both folders and of the rejects, `_done.json` not counted.

        report: what the stage says; two list requests, and another where it counts rejects.
        """
        folders = [self.folder, self.meta_folder, *([self.meta("rejects")] if report.get("rejects") else [])]
        files = [found for folder in folders for found in storage.listing(folder)]
        sizes = [found.size for found in files if storage.name_of(found.url) != DONE]
        return {"count": len(sizes), "bytes": sum(sizes)}

    def holds(self, done: Mapping[str, object]) -> bool:
        """True where the folders weigh what it did when its stage finished; some file is lost or torn otherwise."""
        return "files" not in done or done["files"] == self.weight(done)

    def done(self) -> dict[str, object] | None:
        """What `_done.json` says, None while the stage is not finished."""
        return json_if_whole(self.meta(DONE))

    def finish(self, report: Mapping[str, object]) -> None:
        """Commit `_done.json`; call it after every other file."""
        write_json(self.meta(DONE), report)


def is_artifact(folder: str) -> bool:
    """True for a folder name such as `embeddings-3fa2c17bb71c2af3`."""
    return re.fullmatch(r".+-[0-9a-f]{16}", folder) is not None


def shard_name(index: int, suffix: str = ".parquet") -> str:
    """File name of shard `index`: five digits or more."""
    return f"{index:05d}{suffix}"


def read_table(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file's table; raises TornError that names the file when it is not whole.

    columns: in this order. Cost in an object store: one request, and one or two more where the file is long.
    """
    with storage.open_read(url) as file:
        try:
            parquet = ParquetFile(file)
            names = parquet.schema_arrow.names if columns is None else list(columns)
            if lost := set(names) - set(parquet.schema_arrow.names):
                raise StorageError(
                    f"{url} must have columns {sorted(lost)}, but it has {', '.join(parquet.schema_arrow.names)}"
                )
            expect(file, lambda: column_spans(parquet.metadata, names))
            return parquet.read(names).select(names)
        except MemoryError:
            raise  # Arrow's is an ArrowException too
        except (pa.ArrowException, OSError) as error:  # a page that does not decompress is an OSError
            raise _torn(url, error) from error


def column_spans(metadata: pq.FileMetaData, columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The bytes of these columns in a parquet file: first, and the one after the last, of each row group's."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            path = chunk.path_in_schema  # of what is nested, `image.list.element`; names may have points too
            if any(path == name or path.startswith(f"{name}.") for name in columns):
                # a dictionary comes before the pages that use it; 0 or None where there is none
                first = chunk.dictionary_page_offset or chunk.data_page_offset
                yield first, first + chunk.total_compressed_size


def write_table(url: str, table: pa.Table, summary: Mapping[str, object] | None = None) -> None:
    """Commit a parquet file, with a small JSON summary in its footer when given."""
    if summary is not None:
        kept = table.schema.metadata or {}
        table = table.replace_schema_metadata({**kept, _SUMMARY: _compact(summary)})
    with storage.committing(url) as file:
        # dictionaries and statistics of float vectors cost time and save nothing
        flat = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
        pq.write_table(table, file, compression="zstd", use_dictionary=False, write_statistics=flat)


def read_summary(url: str) -> dict[str, object]:
    """The JSON summary in a parquet file's footer, {} where there is none."""
    return _summary(read_schema(url))


def summary_of(table: pa.Table) -> dict[str, object]:
    """The same of a table that `read` gave."""
    return _summary(table.schema)


def _summary(schema: pa.Schema) -> dict[str, object]:
    return dict(json.loads((schema.metadata or {}).get(_SUMMARY, b"{}")))


def read_schema(url: str) -> pa.Schema:
    """A parquet file's columns and metadata; reads the footer only."""
    with storage.open_read(url) as file:
        try:
            return ParquetFile(file).schema_arrow
        except MemoryError:
            raise
        except pa.ArrowException as error:
            raise _torn(url, error) from error


def _torn(url: str, error: Exception, kind: str = "parquet") -> TornError:
    return TornError(f"{url} must be a whole {kind} file: {error}; delete it to have it made anew")


def read_json(url: str) -> dict[str, object]:
    """A JSON object from a file; raises TornError that names the file when it is not whole."""
    return _json(storage.read_bytes(url), url)


def _json(content: bytes, url: str) -> dict[str, object]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError) as error:  # no JSON; no object
        raise _torn(url, error, "JSON") from error


def array_if_whole(url: str) -> np.ndarray | None:
    """An array from a .npy file, None where there is no such file or it is torn."""
    content = storage.read_if_there(url)
    try:
        return None if content is None else np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):
        return None


def json_if_whole(url: str) -> dict[str, object] | None:
    """The same, None where there is no such file or it is torn."""
    content = storage.read_if_there(url)
    try:
        return None if content is None else _json(content, url)
    except TornError:
        return None


def write_json(url: str, value: Mapping[str, object]) -> None:
    """Commit a JSON object, indented for people."""
    storage.write_bytes(url, (json.dumps(value, indent=2) + "\n").encode())


def _compact(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
