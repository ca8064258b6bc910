"""Reads lists of samples in parts: .npy files of uids, a column of parquet, or text with one name a line."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from winnow.pipeline import storage
from winnow.pipeline.errors import DataError
from winnow.pipeline.storage.text import utf8
from winnow.pipeline.uid import UID, uids_from_pairs
from winnow.stages.cuts.lists.list_names import ListNames
from winnow.stages.pools.brought import brought_groups, brought_schema, check_names, read_brought
from winnow.stages.preview.foreign import HEAD_BYTES, foreign

Form = Literal["npy", "parquet", "text"]

_PART_ROWS = 500_000  # rows of .npy: 8 MB, and some copies
_PART_BYTES = 16 << 20  # of text: about as many uids
_LONGEST_LINE = 1 << 16
_LINE_BYTES = 33  # of a uid in text
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True)
class ListPart:
    """A part of a list's file that one worker reads at once.

    first, stop: rows of .npy, row groups of parquet, or bytes of text; a line belongs to the part in which it begins.
    rows: how many names it has; an estimate for text. number: as an item of the exchange.
    """

    url: str
    form: Form
    first: int
    stop: int
    rows: int
    number: int = 0


@dataclass(frozen=True)
class ToParts:
    """The parts of one file of a list, in order. Reads its first bytes, and its footer if it is parquet."""

    names: ListNames

    def __call__(self, file: storage.Identity) -> list[ListPart]:
        """See the class. Raises DataError for a file that is no list, or of another type."""
        form = form_of(file.url)
        if form == "text":
            spans = _spans(file.size, _PART_BYTES)
            return [ListPart(file.url, form, *span, rows=1 + (span[1] - span[0]) // _LINE_BYTES) for span in spans]
        self.names.check_form(form, file.url)
        if form == "npy":
            with storage.open_read(file.url) as opened:
                _, rows = _uid_header(opened, file.url)
            return [ListPart(file.url, form, *span, rows=span[1] - span[0]) for span in _spans(rows, _PART_ROWS)]
        check_names(brought_schema(file.url), [self.names.column], file.url)
        groups = brought_groups(file.url)
        return [ListPart(file.url, form, group, group + 1, rows) for group, rows in enumerate(groups) if rows]


def form_of(url: str) -> Form:
    """What a file is, by its first bytes. Raises DataError for what is known to be no list, such as gzip."""
    with storage.open_read(url) as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PAR1"):
        return "parquet"
    if told := foreign(head):
        raise DataError(
            f"{url} must be a .npy, parquet or text file, but it is {told.partition(':')[0]}; write one name per line, "
            f"uncompressed"
        )
    return "text"


def names_in(part: ListPart, names: ListNames) -> np.ndarray:
    """The names of one part: (n,) of dtype UID, repeats included. Raises DataError for an entry that is no name."""
    if part.form == "npy":
        return _uids(part)
    if part.form == "parquet":
        groups = range(part.first, part.stop)
        return names.of_list(read_brought(part.url, [names.column], groups)[names.column], part.url)
    return names.of_list(pa.chunked_array([pa.array(_lines(part), pa.string())]), part.url)


def look_at(file: storage.Identity, names: ListNames) -> str:
    """What a list's file holds, for `plan`, from its first bytes and its footer. Raises as ToParts does."""
    parts = ToParts(names)(file)
    if not parts:
        return f"an empty list, {storage.name_of(file.url)}"
    form, rows = parts[0].form, sum(part.rows for part in parts)
    about = f"about {rows:,} lines" if form == "text" else f"{rows:,} {names.what}"
    return f"{about} in {storage.name_of(file.url)}"


def _spans(length: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, length)) for first in range(0, length, size)]


def _uid_header(file: BinaryIO, url: str) -> tuple[np.dtype, int]:
    """dtype of the pairs and number of rows; the file is then at the first row. Raises DataError for other arrays."""
    try:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} has no uids")
        shape, fortran, kind = _HEADERS[version](file)
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"{url} must be a whole .npy file, but: {error}; write it again") from error
    if 0 in shape:  # from an empty list, of any type
        return UID, 0
    pair = kind if kind.names else np.dtype([("f0", kind), ("f1", kind)])
    halves = [pair[name] for name in pair.names or ()]
    fits = [(half.kind, half.itemsize) for half in halves] == [("u", 8)] * 2 and pair.itemsize == UID.itemsize
    if not fits or shape[1:] != (() if kind.names else (2,)) or fortran:
        raise DataError(
            f"{url}: a .npy list must hold uids of dtype u8,u8, as DataComp's subset files do, but it holds {kind} of "
            f"shape {shape}; write the uids as text, one per line, or as parquet"
        )
    begin, size = file.tell(), file.seek(0, 2)
    file.seek(begin)
    if size - begin < shape[0] * UID.itemsize:
        raise DataError(
            f"{url} must be a whole .npy file, but it ends in row {(size - begin) // UID.itemsize} of {shape[0]}; "
            f"fetch it again"
        )
    return pair, shape[0]


def _uids(part: ListPart) -> np.ndarray:
    with storage.open_read(part.url) as file:
        pair, _ = _uid_header(file, part.url)
        file.seek(file.tell() + part.first * UID.itemsize)
        pairs = np.frombuffer(file.read((part.stop - part.first) * UID.itemsize), pair)
    high, low = pair.names or ()
    return uids_from_pairs(pairs[high], pairs[low])


def _lines(part: ListPart) -> list[str]:
    """The lines that begin in a part, without white space at their ends; blank ones and those of # are left out."""
    size = storage.identity_of(part.url).size
    begin = max(part.first - 1, 0)  # with the byte before, so that a line that begins the part is seen as one
    data = storage.read_range(part.url, begin, min(part.stop + _LONGEST_LINE, size))
    at = 0 if part.first == 0 else data.find(b"\n") + 1
    end = data.find(b"\n", part.stop - 1 - begin)
    if end < 0 and part.stop + _LONGEST_LINE < size:
        raise DataError(
            f"{part.url}: a line must have at most {_LONGEST_LINE} bytes, but one after byte {part.stop} has more; "
            f"write one name per line"
        )
    if part.first and (at == 0 or begin + at >= part.stop):  # a line of an earlier part covers this one
        return []
    where = part.url if part.first == 0 else f"{part.url} from byte {begin + at}"
    try:
        text = utf8(data[at : end if end >= 0 else len(data)], where)
    except ValueError as error:
        raise DataError(str(error)) from error
    return list(_told(re.split(r"\r\n|\n|\r", text)))


def _told(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        told = line.strip()
        if told and not told.startswith("#"):
            yield told
