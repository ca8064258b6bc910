"""What watchers are told of a pass: every item once, who did it, what it took; and the same results as without them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import FailedShards, ShardError
from winnow.pipeline.executors.contract import Executor, Needs
from winnow.pipeline.executors.watching import Done, counted
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.storage import Identity


@dataclass
class Notes:
    """A watcher that remembers."""

    told: list[str] = field(default_factory=list)
    items: list[Done] = field(default_factory=list)

    def begin(self, stage: str, total: int, ready: int) -> None:
        self.told.append(f"begin {stage} {total} {ready}")

    def done(self, item: Done) -> None:
        self.items.append(item)

    def end(self, stage: str, seconds: float) -> None:
        self.told.append(f"end {stage}")

    def avoided(self, node: str, error: str) -> None:
        self.told.append(f"avoided {node} {error}")

    def made(self, label: str, artifact: str, seconds: float, reused: bool) -> None:
        self.told.append(f"made {label}")


@dataclass(frozen=True)
class Writes:
    """Commits `index` bytes; shard 2 fails at its first try, and `bad` always."""

    folder: str
    bad: int = -1

    def __call__(self, item: ShardItem) -> Mapping[str, object]:
        mark = Path(self.folder, f"tried-{item.index}")
        if item.index == self.bad or (item.index == 2 and not mark.exists()):
            mark.touch()
            raise ShardError(f"{item.url} must be whole; mend it")
        storage.write_bytes(f"{self.folder}/{item.index}", bytes(item.index))
        return {"rows": 10 * item.index, "rejects": {"no-image": item.index, "no-caption": 1}}


@dataclass(frozen=True)
class Swaps:
    """An exchange that sends each shard's row to one part and back."""

    parts: int = 1

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        return {0: pa.table({"index": [item.index]})}

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        table = pa.concat_tables(tables)
        return {index: table.slice(index, 1) for index in table["index"].to_pylist()}

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Mapping[str, object]:
        return {"rows": len(tables), "index": tables[0]["index"].to_pylist()}


def watched(executor: Executor, folder: Path, shards: int = 4) -> tuple[Run, Notes]:
    notes = Notes()
    identities = tuple(Identity(f"/pool/{i}.tar", 1, "1") for i in range(shards))
    return Run(str(folder), executor, identities, watchers=(notes,)), notes


def test_each_item_is_told_once_with_what_it_took(executor: Executor, tmp_path: Path) -> None:
    run, notes = watched(executor, tmp_path)
    results = dict(run.each(Writes(str(tmp_path)), run.items, "writes"))
    assert [results[index]["rows"] for index in range(4)] == [0, 10, 20, 30]
    assert notes.told == ["begin writes 4 0", "end writes"]
    told = sorted(notes.items, key=lambda item: item.shard or 0)
    assert [(i.stage, i.shard, i.rows, i.rejects, i.bytes) for i in told] == [
        ("writes", n, 10 * n, n + 1, n) for n in range(4)
    ]
    assert [item.retries for item in told] == [0, 0, 1, 0]
    assert all(0 <= item.seconds < 10 for item in told)
    here = {item.worker.endswith(f":{os.getpid()}") for item in told}
    assert here == {type(executor).__name__ == "LocalExecutor"}


def test_an_exchange_is_told_by_its_last_step(executor: Executor, tmp_path: Path) -> None:
    run, notes = watched(executor, tmp_path)
    told: dict[int, object] = {}
    out = Artifact(run.store, "swaps", "0" * 16)
    totals = run.exchange(Swaps(), "swaps", out, [lambda index, summary: told.update({index: summary["index"]})])
    assert told == {0: [0], 1: [1], 2: [2], 3: [3]}
    assert totals.number("rows") == 4
    assert notes.told == ["begin swaps 4 0", "end swaps"]
    assert sorted(item.shard for item in notes.items if item.shard is not None) == [0, 1, 2, 3]
    assert {(item.rows, item.retries) for item in notes.items} == {(1, 0)}


def test_a_pass_that_fails_has_no_end(executor: Executor, tmp_path: Path) -> None:
    run, notes = watched(executor, tmp_path)
    with pytest.raises(FailedShards, match="1 of 4 failed"):
        list(run.each(Writes(str(tmp_path), bad=1), run.items, "writes", Needs(retries=1)))
    assert notes.told == ["begin writes 4 0"]
    assert {item.shard for item in notes.items} == {0, 2, 3}


def test_items_that_are_no_shards_have_no_number(tmp_path: Path) -> None:
    from winnow.pipeline.executors.local import LocalExecutor

    @dataclass(frozen=True)
    class Length:
        def __call__(self, item: tuple[int, ...]) -> int:
            return len(item)

    run, notes = watched(LocalExecutor(1), tmp_path)
    assert list(run.each(Length(), [(1, 2)], "length")) == [(0, 2)]
    assert [(item.shard, item.rows) for item in notes.items] == [(None, 0)]


def test_counts_of_a_summary() -> None:
    assert counted({"rows": 3, "rejects": {"a": 2, "b": 1}}) == (3, 3)
    assert counted({"rows": 3, "rejects": 5}) == (3, 0)
    assert counted([1, 2]) == (0, 0)
