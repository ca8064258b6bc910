"""What a list names samples by: uid, url, sha256 or md5; on the side of the list and on that of the pool."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from winnow.pipeline.errors import DataError
from winnow.pipeline.stage import ShardItem
from winnow.pipeline.uid import UID
from winnow.stages.pools.plain import is_bytes, is_text, stored
from winnow.stages.pools.sample_names import hashed, uids_in
from winnow.stages.survivors import Survivors

What = Literal["uids", "urls", "sha256", "md5"]

FIELDS = {"uids": "uid", "urls": "url", "sha256": "sha256", "md5": "md5"}
"""What the pool, and a parquet file of a list, call it."""

_DIGITS = {"sha256": 64, "md5": 32}


@dataclass(frozen=True)
class ListNames:
    """what: the option that names the list's files. column: of parquet files. named: whether the pool's uids are hashes
    of the values of a column (pool.uid), so that the list may have those values.
    """

    what: What
    column: str
    named: bool = False

    def check_form(self, form: str, url: str) -> None:
        """Raises DataError for a .npy file of anything but uids."""
        if form == "npy" and self.what != "uids":
            raise DataError(f"{url}: a .npy list must hold uids, got subset.{self.what}; write text or parquet")

    def of_list(self, values: pa.ChunkedArray, url: str) -> np.ndarray:
        """The name of each entry: (n,) of dtype UID. Raises DataError for an entry that is none."""
        if self.what == "uids":
            return uids_in(values, self.named, url)
        values = stored(values)
        if not (is_text(values.type) or is_bytes(values.type) or pa.types.is_fixed_size_binary(values.type)):
            raise DataError(f"{url}: {self.what} must be text, but column {self.column} is {values.type}")
        found = [self.name_of(value) for value in values.to_pylist()]
        wrong = [at for at, name in enumerate(found) if name is None]
        if wrong:
            first = values[wrong[0]].as_py()
            raise DataError(f"{url}: {self._rule}, but {len(wrong)} are not, first {first!r:.80}; correct the list")
        return hashed([name for name in found if name is not None])

    def of_pool(self, survivors: Survivors, item: ShardItem) -> tuple[np.ndarray, np.ndarray]:
        """The name of every row of a shard, (n,) of dtype UID, and which rows have one, bool (n,).

        A url or a hash is what the pool says of the sample. If it is no column of the samples file, the shard is read.
        """
        if self.what == "uids":
            uids = survivors.uids(item.index)
            return uids, np.ones(len(uids), bool)
        said = [self.name_of(value) for value in survivors.said(item.index, item.url, FIELDS[self.what])]
        known = np.array([name is not None for name in said], bool)
        names = np.zeros(len(said), UID)
        names[known] = hashed([name for name in said if name is not None])
        return names, known

    def name_of(self, value: object) -> str | None:
        """A url or a hash as it is compared: hashes in lower case; None for a value that is none."""
        if isinstance(value, bytes) and self.what in _DIGITS and 2 * len(value) == _DIGITS[self.what]:
            return value.hex()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape")
        if not isinstance(value, str) or not (text := value.strip()):
            return None
        if self.what == "urls":
            return text
        text = text.lower()
        return text if len(text) == _DIGITS[self.what] and not set(text) - set("0123456789abcdef") else None

    @property
    def _rule(self) -> str:
        digits = _DIGITS.get(self.what)
        return "a url must be a text" if digits is None else f"a {self.what} must be {digits} hex digits"
