"""The place of the file of each shard of an artifact: in its own folder, or in that of an earlier artifact.

An artifact that takes over files of earlier ones does not copy them. Its `files.parquet` lists the file of every shard,
relative to the store, so other programs find all files in one list. An artifact without this list has all of its files
in its own folder.
"""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from winnow.pipeline import storage
from winnow.pipeline.errors import TornError
from winnow.pipeline.parquet_file import ParquetFile

FILES = "files.parquet"
"""Name of the list in an artifact's meta folder: columns `shard` (int64) and `file` (string)."""


@dataclass(frozen=True, eq=False)
class ShardFiles:
    """The file of every shard of one artifact, such as `samples-3fa2c17bb71c2af3/00002.parquet`: strings (n,)."""

    files: pa.StringArray

    @classmethod
    def of(cls, files: Sequence[str]) -> "ShardFiles":
        """The list of these files, relative to the store, in the order of the shards."""
        return cls(pa.array(files, pa.string()))

    def of_shard(self, index: int) -> tuple[str, str]:
        """(folder, name) of the file of one shard. Raises IndexError for a shard that the artifact does not have."""
        return _split(self.files[index].as_py())

    @cached_property
    def by_folder(self) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
        """For each folder the names of its files, and the shards that each belongs to: two shards may be one file."""
        found: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
        for index, file in enumerate(self.files.to_pylist()):
            folder, name = _split(file)
            found[folder][name] = (*found[folder].get(name, ()), index)
        return found

    def taken(self, own: str) -> set[int]:
        """Shards whose file lies in another folder than `own`, that of the artifact."""
        names = self.by_folder.items()
        return {index for folder, files in names if folder != own for shards in files.values() for index in shards}

    def present(self, store: str) -> set[int]:
        """Shards whose file is there, by one list request for each folder."""
        urls = {folder: storage.listing(storage.join(store, folder)) for folder in self.by_folder}
        names = ((folder, storage.name_of(found.url)) for folder, files in urls.items() for found in files)
        return {index for folder, name in names for index in self.by_folder[folder].get(name, ())}

    def listed(self, store: str, rejects: bool) -> list[storage.Identity]:
        """The files that are there, and those of the rejects; one list request for each folder."""
        found: list[storage.Identity] = []
        for folder, names in self.by_folder.items():
            urls = [storage.join(store, folder), *([storage.join(store, f"{folder}.meta", "rejects")] * rejects)]
            found += [file for url in urls for file in storage.listing(url) if storage.name_of(file.url) in names]
        return found

    def commit(self, url: str) -> None:
        """Write the list."""
        table = pa.table({"shard": pa.array(range(len(self.files)), pa.int64()), "file": self.files})
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd")
        storage.write_bytes(url, content.getvalue())
        forget()


def files_of(url: str, done: str) -> ShardFiles | None:
    """The list at `url`; None if the artifact has none. Raises TornError if it is damaged.

    done: URL of the artifact's `_done.json`. A process reads each list once, and looks again for a missing list until
    the artifact is finished.
    """
    try:
        return _known(url, done)
    except _Unfinished:
        return None


def forget() -> None:
    """Forget all lists: the caller is about to make an artifact, whose list may be another one than before."""
    _known.cache_clear()


class _Unfinished(Exception):
    """There is no list yet. lru_cache keeps no exception, so the next call looks again."""


@lru_cache(maxsize=64)
def _known(url: str, done: str) -> ShardFiles | None:
    found = _read(url)
    if found is None and storage.read_if_there(done) is None:
        raise _Unfinished
    return _read(url) if found is None else found  # it may have been written between the two looks


def _read(url: str) -> ShardFiles | None:
    content = storage.read_if_there(url)
    if content is None:
        return None
    try:
        return ShardFiles(ParquetFile(io.BytesIO(content)).read(["file"])["file"].combine_chunks())
    except pa.ArrowException as error:
        raise TornError(f"{url} must be a whole parquet file, but is damaged: {error}; run the job again") from error


def _split(file: str) -> tuple[str, str]:
    folder, _, name = file.partition("/")
    return folder, name
