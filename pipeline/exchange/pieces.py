"""The files of an exchange: rows of some items or parts, sorted by who receives them, with an index at the end.

    <step>-<first>-<stop>.rows      what items (or parts) first … stop - 1 sent

    | rows for receiver 0 | rows for receiver 1 | … | offsets: uint64, receivers + 1 |

Rows are Arrow IPC streams, one after another. A reader asks for the two offsets that it needs, then for the bytes
between them, so the rows of adjacent receivers are one request. Names say which senders are done: nothing else does.
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
"""Goes up where pieces would be read otherwise: those of another format are not looked at."""

_NAME = re.compile(r"(?P<step>[a-z]+)-(?P<first>\d+)-(?P<stop>\d+)\.\w+")
_OFFSET = np.dtype("<u8")
_AT_ONCE = 16  # requests of one worker: a store answers each in some 20 ms, however small it is
_WHOLE_BYTES = 4 << 20  # where all pieces have no more, each is read by one request, not by two


@dataclass(frozen=True, order=True)
class Piece:
    """One file. It has what the senders first … stop - 1 sent, however many receivers that was for."""

    first: int
    stop: int
    size: int
    url: str


def pieces_in(folder: str) -> dict[str, list[Piece]]:
    """The pieces of each step that lie in a folder, by one list request."""
    found: dict[str, list[Piece]] = {}
    for file in storage.listing(folder):
        if (name := _NAME.fullmatch(storage.name_of(file.url))) is not None:
            piece = Piece(int(name["first"]), int(name["stop"]), file.size, file.url)
            found.setdefault(name["step"], []).append(piece)
    return found


def piece_url(folder: str, step: str, first: int, stop: int, suffix: str = "rows") -> str:
    """Where the piece of these senders lies."""
    return storage.join(folder, f"{step}-{first:07d}-{stop:07d}.{suffix}")


def tiling(pieces: Sequence[Piece], count: int) -> list[Piece] | None:
    """Pieces that have each of `count` senders once, in order; None where some sender is missing.

    Two runs at once may have cut their pieces at different places: any set that fits together has the same rows.
    """
    by_first: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_first.setdefault(piece.first, []).append(piece)
    follows: dict[int, Piece] = {}  # by a sender from which pieces lead to the end: the next piece
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
    """The senders that no piece has, as ranges; a piece that begins inside another one counts for nothing."""
    stops = stops_of(pieces)
    found, at = [], 0
    for first in [*sorted(stops), count]:
        if first >= at:
            if first > at:
                found.append((at, first))
            at = stops.get(first, count)
    return found


def stops_of(pieces: Sequence[Piece]) -> dict[int, int]:
    """By the first sender of a piece, where the longest such piece stops."""
    return {piece.first: piece.stop for piece in sorted(pieces)}


class Outbox:
    """Rows on their way to some receivers, in memory until they are committed as one piece.

    held: bytes of the rows.
    """

    def __init__(self, receivers: int) -> None:
        self._tables: list[list[pa.Table]] = [[] for _ in range(receivers)]
        self.held = 0

    def add(self, receiver: int, table: pa.Table) -> None:
        """Rows that come after those that the receiver got before."""
        if len(table):
            self._tables[receiver].append(table)
            self.held += table.nbytes

    def commit(self, url: str) -> None:
        """Write the piece; the rows are let go."""
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
    """The pieces of one step as those read them who receive their rows.

    pieces: in order, each sender once. receivers: how many there are in all.
    """

    pieces: tuple[Piece, ...]
    receivers: int

    def read(self, first: int, stop: int) -> "Mail":
        """What lies there for the receivers first … stop - 1: the index, and of small pieces their rows."""
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
        """int64 (pieces, count + 1). Raises TornError for an index that cannot be one."""
        table = np.zeros((len(self.pieces), count + 1), np.int64)
        for piece, row, found in zip(self.pieces, table, offsets, strict=True):
            rows_end = piece.size - _OFFSET.itemsize * (self.receivers + 1)
            if len(found) != count + 1 or (found[1:] < found[:-1]).any() or found[-1] > rows_end:
                raise _torn(piece)
            row[:] = found
        return table


@dataclass(frozen=True)
class Mail:
    """What lies in all pieces for some adjacent receivers.

    offsets: int64 (pieces, receivers + 1), where the rows of each receiver begin and end. contents: of each piece,
    where all of it was read.
    """

    pieces: tuple[Piece, ...]
    first: int
    offsets: np.ndarray
    contents: tuple[bytes, ...] | None

    def batches(self, most: int) -> list[tuple[int, int]]:
        """Ranges of receivers whose rows have at most so many bytes together, or those of one that has more."""
        sizes = np.diff(self.offsets, axis=1).sum(axis=0) if self.pieces else np.zeros(self.offsets.shape[1] - 1)
        stops, held = [0], 0
        for receiver, size in enumerate(sizes.tolist()):
            if held + size > most and receiver > stops[-1]:
                stops.append(receiver)
                held = 0
            held += size
        return [(self.first + a, self.first + b) for a, b in pairwise([*stops, len(sizes)])]

    def tables(self, first: int, stop: int) -> Iterator[tuple[int, list[pa.Table]]]:
        """(receiver, its tables in order of sender) of the receivers first … stop - 1; held all at once."""
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
    """The tables of streams that lie end to end; they share its memory."""
    source, tables = pa.BufferReader(pa.py_buffer(rows)), []
    while source.tell() < len(rows):
        with pa.ipc.open_stream(source) as stream:
            tables.append(stream.read_all())
    return tables


def _torn(piece: Piece) -> TornError:
    return TornError(f"{piece.url} must be a whole piece of an exchange; delete it to have it made anew")
