"""Pieces of an exchange: which of them fit together, what a reader finds in them, and how few requests it takes."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults import FaultyProxy
from winnow.pipeline import storage
from winnow.pipeline.errors import TornError
from winnow.pipeline.exchange import pieces
from winnow.pipeline.exchange.pieces import Inbox, Outbox, Piece, gaps, piece_url, pieces_in, tiling

spans = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)).map(lambda at: (at[0], min(10, sum(at)))), max_size=12)


def placed(ranges: Sequence[tuple[int, int]]) -> list[Piece]:
    return [Piece(first, stop, 1, f"{first}-{stop}") for first, stop in ranges]


def reachable(ranges: Sequence[tuple[int, int]], at: int = 0) -> bool:
    """Whether some of the ranges, one after another, lead to 10."""
    return at == 10 or any(reachable(ranges, stop) for first, stop in ranges if first == at)


@given(spans)
def test_pieces_that_fit_together_are_found_where_there_are_any(ranges: list[tuple[int, int]]) -> None:
    found = tiling(placed(ranges), 10)
    assert (found is not None) == reachable(ranges)
    if found is not None:
        assert [number for piece in found for number in range(piece.first, piece.stop)] == list(range(10))


@given(spans)
def test_pieces_and_what_is_missing_fit_together(ranges: list[tuple[int, int]]) -> None:
    missing = gaps(placed(ranges), 10)
    assert tiling(placed([*ranges, *missing]), 10) is not None
    assert all(stop < first for (_, stop), (first, _) in pairwise(missing))
    if not ranges:
        assert missing == [(0, 10)]


def test_of_nobody_nothing_is_missing() -> None:
    assert tiling([], 0) == []
    assert gaps([], 0) == []


def sent(root: str, receivers: int, seed: int) -> tuple[Inbox, dict[int, list[int]]]:
    """Random rows of some senders in pieces, and what each receiver must find; one sender's rows have other columns."""
    rng = np.random.default_rng(seed)
    expected: dict[int, list[int]] = defaultdict(list)
    for first, stop in ((0, 2), (2, 3), (3, 6)):
        box = Outbox(receivers)
        for sender in range(first, stop):
            for receiver in rng.permutation(receivers)[: rng.integers(0, receivers + 1)].tolist():
                rows = rng.integers(0, 99, rng.integers(0, 5))
                box.add(receiver, pa.table({"other" if sender == 4 else "v": rows}))
                expected[receiver] += rows.tolist()
        box.commit(piece_url(root, "sent", first, stop))
        assert box.held == 0
    found = tiling(pieces_in(root)["sent"], 6)
    assert found is not None
    return Inbox(tuple(found), receivers), expected


def values(tables: Sequence[pa.Table]) -> list[int]:
    return [value for table in tables for value in table[table.column_names[0]].to_pylist()]


@pytest.mark.parametrize("whole", [0, 1 << 20])
@pytest.mark.parametrize("held", [0, 300, 1 << 20])
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_each_receiver_finds_its_rows_in_order_of_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int, held: int, kind: str
) -> None:
    monkeypatch.setattr(pieces, "_WHOLE_BYTES", whole)
    for seed in range(10):
        root = str(tmp_path / str(seed)) if kind == "local" else f"memory://{uuid.uuid4().hex}"
        inbox, expected = sent(root, 5, seed)
        for first, stop in ((0, 5), (1, 4), (3, 4)):
            mail = inbox.read(first, stop)
            batches = mail.batches(held)
            assert [number for batch in batches for number in range(*batch)] == list(range(first, stop))
            found = {number: values(tables) for batch in batches for number, tables in mail.tables(*batch)}
            assert found == {number: expected[number] for number in range(first, stop)}


def test_a_batch_has_as_many_bytes_as_are_held_at_most(tmp_path: Path) -> None:
    box = Outbox(8)
    for receiver, rows in enumerate((100, 100, 900, 100, 100, 100, 0, 100)):
        box.add(receiver, pa.table({"v": np.zeros(rows, np.int64)}))
    box.commit(piece_url(str(tmp_path), "sent", 0, 1))
    mail = Inbox(tuple(pieces_in(str(tmp_path))["sent"]), 8).read(0, 8)
    assert mail.batches(3000) == [(0, 2), (2, 3), (3, 5), (5, 8)]


def test_a_piece_that_another_program_cut_short_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, _ = sent(str(tmp_path), 5, 0)
    path = Path(inbox.pieces[1].url)
    path.write_bytes(path.read_bytes()[8:] + b"\xff" * 8)
    for whole in (0, 1 << 20):
        monkeypatch.setattr(pieces, "_WHOLE_BYTES", whole)
        with pytest.raises(TornError, match=rf"{path} must be a whole piece of an exchange; delete it"):
            inbox.read(0, 5)


def test_rows_that_are_none_are_a_torn_piece_too(tmp_path: Path) -> None:
    inbox, _ = sent(str(tmp_path), 5, 0)
    path = Path(inbox.pieces[0].url)
    path.write_bytes(b"\xff" * 64 + path.read_bytes()[64:])
    with pytest.raises(TornError, match=rf"{path} must be a whole piece"):
        list(inbox.read(0, 5).tables(0, 5))


def test_adjacent_receivers_are_two_requests_a_piece(
    s3_store: str, counted: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_WHOLE_BYTES", 0)
    inbox, expected = sent(storage.join(s3_store, uuid.uuid4().hex), 5, 3)
    counted.requests.clear()
    found = dict(inbox.read(1, 5).tables(1, 5))
    assert {number: values(tables) for number, tables in found.items()} == {n: expected[n] for n in range(1, 5)}
    assert counted.requests == {"GET object": 2 * 3}
