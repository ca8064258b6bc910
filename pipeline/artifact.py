"""Artifacts: the folder that a stage makes in a store, with a parquet file per shard and `_done.json` written last.

An artifact has two folders. `<name>` holds only data files (00000.parquet …), so that any program can read it as one
table; some programs read every file of a folder, even hidden ones and those in subfolders. `<name>.meta` beside it
holds everything else, such as `_done.json`.

A file that an earlier artifact has already is not copied: `files.parquet` says where it lies (store/shard_files.py).

A stage that rejects samples also writes `<name>.meta/rejects/00000.parquet …`. The rejects of a shard are written
before the shard's file, whose summary counts them under `rejects`.

Every file is committed whole, so a file that exists is correct. `_done.json` says that all files are there and records
their number and size: if another program damages a file, the next run sees it and makes the file again. The folder's
name contains a fingerprint of everything that the artifact is made from, so nothing ever has to be invalidated.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.errors import StorageError, TornError
from winnow.pipeline.parquet_file import ParquetFile, column_spans, write_rows
from winnow.pipeline.storage.remote_file import expect
from winnow.pipeline.store.shard_files import FILES, ShardFiles, files_of

DONE = "_done.json"
_SUMMARY = b"winnow"


@dataclass(frozen=True)
class Artifact:
    """The name of what one stage makes in a store. An Artifact object exists before its files do.

    store: URL of the store. stage: name of the stage. fingerprint: 16 hex digits over everything that it is made from.
    refers: whether files of its shards may lie in other artifacts; False saves the look for their list.
    """

    store: str
    stage: str
    fingerprint: str
    refers: bool = field(default=True, compare=False, repr=False)

    @classmethod
    def named(cls, store: str, folder: str) -> "Artifact":
        """The artifact of a folder such as `samples-3fa2c17bb71c2af3`. Raises ValueError for any other name."""
        if not is_artifact(folder):
            raise ValueError(f"an artifact's folder must be named like samples-3fa2c17bb71c2af3, got {folder!r}")
        stage, _, mark = folder.rpartition("-")
        return cls(store, stage, mark)

    @property
    def name(self) -> str:
        """Folder name, such as `samples-3fa2c17bb71c2af3`."""
        return f"{self.stage}-{self.fingerprint}"

    @property
    def folder(self) -> str:
        """URL of the data folder, which holds a file for each shard and nothing else."""
        return storage.join(self.store, self.name)

    @property
    def meta_folder(self) -> str:
        """URL of the folder beside the data, for all other files."""
        return f"{self.folder}.meta"

    def file(self, name: str) -> str:
        """URL of a data file."""
        return storage.join(self.folder, name)

    def meta(self, name: str) -> str:
        """URL of a file in the meta folder."""
        return storage.join(self.meta_folder, name)

    @property
    def shard_files(self) -> ShardFiles | None:
        """Where the files of its shards lie; None if all lie in its own folder. Raises TornError for a damaged list."""
        return files_of(self.meta(FILES), self.meta(DONE)) if self.refers else None

    def place(self, index: int) -> tuple[str, str]:
        """(folder of an artifact, file name) of the data file of input shard `index`."""
        known = self.shard_files
        return (self.name, shard_name(index)) if known is None else known.of_shard(index)

    def shard(self, index: int) -> str:
        """URL of the data file of input shard `index`."""
        return storage.join(self.store, *self.place(index))

    def rejects(self, index: int) -> str:
        """URL of the rejects of input shard `index`; the file exists only if the shard's summary counts rejects."""
        folder, name = self.place(index)
        return storage.join(self.store, f"{folder}.meta", "rejects", name)

    def columns(self, index: int) -> list[str]:
        """Column names of the table of shard `index`; reads the footer only."""
        return list(read_schema(self.shard(index)).names)

    def present(self, suffix: str = ".parquet") -> set[int]:
        """Indices of the shard files that are committed, by one list request for each folder that has some."""
        # a shard file is committed whole, so its name is enough: no request for each shard
        if (known := self.shard_files) is not None:
            return known.present(self.store)
        names = [storage.name_of(found.url) for found in storage.listing(self.folder)]
        stems = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
        return {int(stem) for stem in stems if stem.isdigit()}

    def read(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The table of shard `index`, with these columns only; bytes of other columns are not read."""
        return read_table(self.shard(index), columns)

    def write(self, index: int, table: pa.Table, summary: Mapping[str, object]) -> None:
        """Commit the table of shard `index`, with its summary (small JSON, such as counts) in the parquet footer."""
        write_table(self.shard(index), table, summary)

    def summary(self, index: int) -> dict[str, object]:
        """The summary that was committed with shard `index`; reads the footer only."""
        return read_summary(self.shard(index))

    def summary_if_whole(self, index: int) -> dict[str, object] | None:
        """The summary of shard `index`; None if one of the shard's files is lost or truncated, by a broken copy say."""
        try:
            found = self.summary(index)
            # a shard without its rejects would lose samples silently
            if found.get("rejects"):
                read_schema(self.rejects(index))
        except TornError:
            return None
        except StorageError as error:
            if storage.is_absence(error.__cause__):
                return None
            raise
        return found

    def weight(self, report: Mapping[str, object]) -> dict[str, int]:
        """Number and total bytes of its files without `_done.json`; files in other artifacts' folders count too.

        report: the stage's report. Cost: two list requests, three if the report counts rejects, and one or two for each
        folder of another artifact.
        """
        known, rejects = self.shard_files, bool(report.get("rejects"))
        files = [found for found in storage.listing(self.meta_folder) if storage.name_of(found.url) != DONE]
        if known is None:
            files += [f for url in (self.folder, *([self.meta("rejects")] * rejects)) for f in storage.listing(url)]
        else:
            files += known.listed(self.store, rejects)
        return {"count": len(files), "bytes": sum(found.size for found in files)}

    def holds(self, done: Mapping[str, object]) -> bool:
        """Whether the files have the number and size that `_done.json` records; if not, a file is lost or damaged."""
        try:
            return "files" not in done or done["files"] == self.weight(done)
        except TornError:  # of the list of files
            return False

    def done(self) -> dict[str, object] | None:
        """The content of `_done.json`; None if the stage is not finished."""
        return json_if_whole(self.meta(DONE))

    def finish(self, report: Mapping[str, object]) -> None:
        """Commit `_done.json`; call it after every other file."""
        write_json(self.meta(DONE), report)


def is_artifact(folder: str) -> bool:
    """True for a folder name such as `samples-3fa2c17bb71c2af3`."""
    return re.fullmatch(r".+-[0-9a-f]{16}", folder) is not None


def artifacts_in(store: str) -> list[str]:
    """Names of the artifacts of a store, sorted. One whose files all lie in other artifacts has a meta folder only."""
    return sorted(filter(is_artifact, {folder.removesuffix(".meta") for folder in storage.folders(store)}))


def shard_name(index: int, suffix: str = ".parquet") -> str:
    """File name of shard `index`: five digits or more."""
    return f"{index:05d}{suffix}"


def read_table(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a parquet file. Raises TornError that names the file if the file is damaged.

    columns: the columns to read, in this order. Cost in an object store: one request, one or two more for a long file.
    """
    with storage.open_read(url) as file:
        try:
            parquet = ParquetFile(file)
            names = parquet.schema_arrow.names if columns is None else list(columns)
            if lost := set(names) - set(parquet.schema_arrow.names):
                raise StorageError(
                    f"{url} must have columns {sorted(lost)}, but it has {', '.join(parquet.schema_arrow.names)}"
                )
            # tell remote files which bytes come next, so that the columns take few requests
            expect(file, lambda: column_spans(parquet.metadata, names))
            return parquet.read(names).select(names)
        except MemoryError:
            raise  # Arrow's MemoryError is an ArrowException too, but the file is not damaged
        except (pa.ArrowException, OSError) as error:  # a page that does not decompress is an OSError
            raise _torn(url, error) from error


def write_table(url: str, table: pa.Table, summary: Mapping[str, object] | None = None) -> None:
    """Commit a parquet file. summary: small JSON for the footer."""
    if summary is not None:
        kept = table.schema.metadata or {}
        table = table.replace_schema_metadata({**kept, _SUMMARY: _compact(summary)})
    with storage.committing(url) as file:
        write_rows(file, [table])


def write_tables(url: str, tables: Iterable[pa.Table]) -> int:
    """Commit a parquet file of tables that come one after another, at least one; returns their rows."""
    with storage.committing(url) as file:
        return write_rows(file, tables)


def read_summary(url: str) -> dict[str, object]:
    """The JSON summary in a parquet file's footer; {} if there is none."""
    return _summary(read_schema(url))


def summary_of(table: pa.Table) -> dict[str, object]:
    """The JSON summary of a table that `read` returned; {} if there is none."""
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
    """A JSON object from a file. Raises TornError that names the file if the file is damaged."""
    return _json(storage.read_bytes(url), url)


def _json(content: bytes, url: str) -> dict[str, object]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError) as error:  # not JSON; not an object
        raise _torn(url, error, "JSON") from error


def array_if_whole(url: str) -> np.ndarray | None:
    """An array from a .npy file; None if the file is missing or damaged."""
    content = storage.read_if_there(url)
    try:
        return None if content is None else np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):
        return None


def json_if_whole(url: str) -> dict[str, object] | None:
    """A JSON object from a file; None if the file is missing or damaged."""
    content = storage.read_if_there(url)
    try:
        return None if content is None else _json(content, url)
    except TornError:
        return None


def write_json(url: str, value: Mapping[str, object]) -> None:
    """Commit a JSON object, indented."""
    storage.write_bytes(url, (json.dumps(value, indent=2) + "\n").encode())


def _compact(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
