"""The files of an exchange, called pieces: rows from some items or parts, sorted by receiver, with an index at the end.

    <step>-<first>-<stop>.rows      what items (or parts) first … stop - 1 sent

    | rows for receiver 0 | rows for receiver 1 | … | offsets: uint64, receivers + 1 |

Rows are Arrow IPC streams, one after another. A reader first reads the two offsets that it needs, then the bytes
between them, so the rows of adjacent receivers take one request. Only the file names say which senders are done.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.errors import TornError

FORMAT = 1
"""Version of the format of a piece. Pieces of another version are ignored, so raise it when the format changes."""

_NAME = re.compile(r"(?P<step>[a-z]+)-(?P<first>\d+)-(?P<stop>\d+)\.\w+")
_OFFSET = np.dtype("<u8")
_AT_ONCE = 16  # concurrent requests of a worker, because a store takes some 20 ms even for a small one
_WHOLE_BYTES = 4 << 20  # pieces of at most this size in all are read whole, by one request each and not two


@dataclass(frozen=True, order=True)
class Piece:
    """One file, with everything that the senders first … stop - 1 sent, to any number of receivers."""

    first: int
    stop: int
    size: int
    url: str


def pieces_in(folder: str) -> dict[str, list[Piece]]:
    """The pieces in a folder, by step. Cost: one list request."""
    found: dict[str, list[Piece]] = {}
    for file in storage.listing(folder):
        if (name := _NAME.fullmatch(storage.name_of(file.url))) is not None:
            piece = Piece(int(name["first"]), int(name["stop"]), file.size, file.url)
            found.setdefault(name["step"], []).append(piece)
    return found


def piece_url(folder: str, step: str, first: int, stop: int, suffix: str = "rows") -> str:
    """The URL of the piece of these senders."""
    return storage.join(folder, f"{step}-{first:07d}-{stop:07d}.{suffix}")


def tiling(pieces: Sequence[Piece], count: int) -> list[Piece] | None:
    """Pieces that have each of `count` senders exactly once, in order; None if a sender is missing.

    Two runs at the same time may split the senders differently. Any set of pieces that fits together has the same rows.
    """
    by_first: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_first.setdefault(piece.first, []).append(piece)
    follows: dict[int, Piece] = {}  # by sender: the next piece of a chain that reaches the last sender
    for first in sorted(by_first, reverse=True):
        if good := [piece for piece in by_first[first] if piece.stop == count or piece.stop in follows]:
            follows[first] = max(good)
    found, at = list[Piece](), 0
    while at < count:
        if at not in follows:
            return None
        found.append(follows[at])
        at = found[-1].stop
    return found


def gaps(pieces: Sequence[Piece], count: int) -> list[tuple[int, int]]:
    """The senders that no piece has, as ranges. A piece that begins inside another piece is ignored."""
    stops = stops_of(pieces)
    found, at = [], 0
    for first in [*sorted(stops), count]:
        if first >= at:
            if first > at:
                found.append((at, first))
            at = stops.get(first, count)
    return found


def stops_of(pieces: Sequence[Piece]) -> dict[int, int]:
    """For each first sender, the stop of the longest piece that begins with it."""
    return {piece.first: piece.stop for piece in sorted(pieces)}


class Outbox:
    """Collects rows for some receivers in memory, and commits them as one piece.

    held: bytes of the rows.
    """

    def __init__(self, receivers: int) -> None:
        self._tables: list[list[pa.Table]] = [[] for _ in range(receivers)]
        self.held = 0

    def add(self, receiver: int, table: pa.Table) -> None:
        """Append rows for a receiver."""
        if len(table):
            self._tables[receiver].append(table)
            self.held += table.nbytes

    def commit(self, url: str) -> None:
        """Write the piece, and release the rows."""
        offsets = np.zeros(len(self._tables) + 1, _OFFSET)
        with storage.committing(url) as file:
            for receiver, tables in enumerate(self._tables):
                for schema, alike in groupby(tables, lambda table: table.schema):
                    with pa.ipc.new_stream(file, schema) as stream:
                        stream.write_table(pa.concat_tables(alike).combine_chunks())
                offsets[receiver + 1] = file.tell()
                tables.clear()
            file.write(offsets.tobytes())
        self.held = 0


@dataclass(frozen=True)
class Inbox:
    """The pieces of one step, for reading by receiver.

    pieces: in order, each sender once. receivers: their number.
    """

    pieces: tuple[Piece, ...]
    receivers: int

    def read(self, first: int, stop: int) -> "Mail":
        """Read the index for the receivers first … stop - 1 and, of small pieces, the rows too."""
        if sum(piece.size for piece in self.pieces) <= _WHOLE_BYTES:
            contents = _at_once([(piece.url, 0, piece.size) for piece in self.pieces])
            indexes = [content[-_OFFSET.itemsize * (self.receivers + 1) :] for content in contents]
            offsets = [np.frombuffer(index, _OFFSET)[first : stop + 1] for index in indexes]
            return Mail(self.pieces, first, self._checked(offsets, stop - first), tuple(contents))
        asked = []
        for piece in self.pieces:
            start = piece.size - _OFFSET.itemsize * (self.receivers + 1 - first)
            asked.append((piece.url, start, start + _OFFSET.itemsize * (stop + 1 - first)))
        offsets = [np.frombuffer(index, _OFFSET) for index in _at_once(asked)]
        return Mail(self.pieces, first, self._checked(offsets, stop - first), None)

    def _checked(self, offsets: Sequence[np.ndarray], count: int) -> np.ndarray:
        """int64 (pieces, count + 1). Raises TornError for an invalid index."""
        table = np.zeros((len(self.pieces), count + 1), np.int64)
        for piece, row, found in zip(self.pieces, table, offsets, strict=True):
            rows_end = piece.size - _OFFSET.itemsize * (self.receivers + 1)
            if len(found) != count + 1 or (found[1:] < found[:-1]).any() or found[-1] > rows_end:
                raise _torn(piece)
            row[:] = found
        return table


@dataclass(frozen=True)
class Mail:
    """The rows of all pieces for some adjacent receivers.

    offsets: int64 (pieces, receivers + 1), the bytes where the rows of each receiver begin and end. contents: the bytes
    of each piece, if whole pieces were read.
    """

    pieces: tuple[Piece, ...]
    first: int
    offsets: np.ndarray
    contents: tuple[bytes, ...] | None

    def batches(self, most: int) -> list[tuple[int, int]]:
        """Ranges of receivers whose rows have at most that many bytes; a receiver with more has its own range."""
        sizes = np.diff(self.offsets, axis=1).sum(axis=0) if self.pieces else np.zeros(self.offsets.shape[1] - 1)
        stops, held = [0], 0
        for receiver, size in enumerate(sizes.tolist()):
            if held + size > most and receiver > stops[-1]:
                stops.append(receiver)
                held = 0
            held += size
        return [(self.first + a, self.first + b) for a, b in pairwise([*stops, len(sizes)])]

    def tables(self, first: int, stop: int) -> Iterator[tuple[int, list[pa.Table]]]:
        """(receiver, its tables in order of sender) for the receivers first … stop - 1. All are in memory at once."""
        a, b = first - self.first, stop - self.first
        starts, stops = self.offsets[:, a], self.offsets[:, b]
        some = np.flatnonzero(stops > starts)
        if self.contents is None:
            read = _at_once([(self.pieces[at].url, int(starts[at]), int(stops[at])) for at in some])
            begun = starts[some].tolist()
        else:
            read, begun = [self.contents[at] for at in some], [0] * len(some)
        blocks = {at: (memoryview(block), start) for at, block, start in zip(some.tolist(), read, begun, strict=True)}
        for receiver in range(a, b):
            found: list[pa.Table] = []
            for at, (block, start) in blocks.items():
                begin, end = (int(self.offsets[at, number]) - start for number in (receiver, receiver + 1))
                try:
                    found += _streams(block[begin:end])
                except (pa.ArrowException, OSError) as error:
                    raise _torn(self.pieces[at]) from error
            yield self.first + receiver, found


def _at_once(asked: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """The bytes of (url, start, stop) ranges, in order."""
    if len(asked) <= 1:
        return [storage.read_range(*one) for one in asked]
    with ThreadPoolExecutor(min(_AT_ONCE, len(asked))) as threads:
        return list(threads.map(lambda one: storage.read_range(*one), asked))


def _streams(rows: memoryview) -> list[pa.Table]:
    """The tables in consecutive IPC streams; they share the memory of the buffer."""
    source, tables = pa.BufferReader(pa.py_buffer(rows)), []
    while source.tell() < len(rows):
        with pa.ipc.open_stream(source) as stream:
            tables.append(stream.read_all())
    return tables


def _torn(piece: Piece) -> TornError:
    return TornError(f"{piece.url} must be a whole piece of an exchange; delete it to have it made anew")
