"""An exchange of a few numbers whose answer is a plain list, and which leaves a mark at each call."""

import os
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tests.pipeline.test_executors import mark
from winnow.pipeline.errors import ShardError
from winnow.pipeline.exchange.shuffle import Shuffle
from winnow.pipeline.executors.contract import Executor, Needs

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Spread:
    """Item i holds 0..i+1; part v % parts tells it the sum of the numbers there up to its own largest.

    Each call leaves a mark in a folder where there is one. fails_at: calls that always fail. waits: seconds of a call.
    """

    parts: int
    folder: str = ""
    fails_at: tuple[str, ...] = ()
    kills_at: str = ""
    error: type[Exception] = ShardError
    stray: str = ""
    waits: float = 0.0

    def scatter(self, item: int) -> dict[int, pa.Table]:
        self.mishap(f"scatter{item}")
        rows = defaultdict(list)
        for v in range(item + 2):
            rows[v % self.parts + 99 * (self.stray == "part")].append(v)
        return {part: pa.table({"item": [item] * len(v), "v": v}) for part, v in rows.items()}

    def decide(self, part: int, tables: list[pa.Table]) -> dict[int, pa.Table]:
        self.mishap(f"decide{part}")
        items = [item for table in tables for item in table["item"].to_pylist()]
        assert items == sorted(items)  # rows come in order of item
        numbers = [v for table in tables for v in table["v"].to_pylist()]
        return {
            item + 99 * (self.stray == "item"): pa.table(
                {"part": [part], "sum": [sum(v for v in numbers if v <= item + 1)]}
            )
            for item in set(items)
        }

    def settle(self, item: int, tables: list[pa.Table]) -> list[object]:
        self.mishap(f"settle{item}")
        return [item, [[row["part"], row["sum"]] for table in tables for row in table.to_pylist()]]

    def mishap(self, step: str) -> None:
        tried = mark(self.folder, step) if self.folder else 0
        time.sleep(self.waits)
        if step == self.kills_at and tried == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if step in self.fails_at:
            raise self.error(f"{step} is bad")


def expected(parts: int, count: int) -> dict[int, list[object]]:
    """The same with one plain list of (item, number)."""
    held = [(item, v) for item in range(count) for v in range(item + 2)]
    answer: dict[int, list[object]] = {}
    for item in range(count):
        mine = sorted({v % parts for v in range(item + 2)})
        sums = [[p, sum(v for _, v in held if v % parts == p and v <= item + 1)] for p in mine]
        answer[item] = [item, sums]
    return answer


def exchanged(executor: Executor, work: Spread, count: int, folder: Path, needs: Needs | None = None, **options: int):
    """All that an exchange does; what its pieces are named by is a folder."""
    found = Shuffle(executor, work, range(count), "spread", needs or Needs(), str(folder), **options)
    results = dict(found.earlier())
    if len(results) < count:
        found.prepare()
        for index, measured in found.settle(results):
            assert index not in results
            results[index] = measured.result
    return results


def calls(folder: Path) -> dict[str, int]:
    """How often each call was begun."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}
