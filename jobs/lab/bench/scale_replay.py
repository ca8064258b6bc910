"""An executor without workers for bench-scale: it replays a few simulated answers until every shard is accounted for.

Another process runs the real tasks on some items, merges what they answer as a worker does, and pickles it as Ray
would. For an exchange it leaves pieces of the right number, names and sizes, which hold nothing (sparse files).
"""

import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from winnow.pipeline.exchange.pieces import piece_url
from winnow.pipeline.exchange.shuffle import HELD_BYTES
from winnow.pipeline.exchange.steps import DECIDED, SENT, SETTLED, DecideTask, ScatterTask, SettleTask, Span
from winnow.pipeline.executors.contract import Needs, Task
from winnow.pipeline.executors.ray_worker import Worker
from winnow.pipeline.executors.watching import Measured
from winnow.pipeline.stage import ShardItem


def _answer(task: Task[Any, Any], items: Sequence[ShardItem], path: Path) -> None:
    """What a worker answers to one call, as it is sent."""
    path.write_bytes(pickle.dumps(Worker().run(1, task, items, 1e9), 5))


class Replayed:
    """An executor whose answers another process makes: `distinct` of them, each sent for many calls.

    together: shards of a call. a_piece: items whose rows fill one piece of an exchange. settled: what an exchange
    answers for an item. largest, sent: bytes of an answer, and of all.
    """

    workers = 256
    failed: Mapping[int, int] = {}
    avoided: Mapping[str, str] = {}

    def __init__(self, folder: Path, pool: ProcessPoolExecutor, together: int, distinct: int) -> None:
        self._folder, self._pool, self._together, self._distinct = folder, pool, together, distinct
        self.a_piece = 1
        self.settled: Callable[[int], object] = lambda index: None
        self.largest = self.sent = 0

    def start(self) -> None:
        """Nothing to start."""

    def map(self, task: Task[Any, Any], items: Sequence[Any], label: str, needs: Needs) -> Iterator[tuple[int, Any]]:
        """See Executor.map."""
        step = getattr(task, "function", None)
        if isinstance(step, ScatterTask | DecideTask):
            yield from self._sent(step, items)
        elif isinstance(step, SettleTask):
            yield from self._settled(step, items)
        else:
            yield from self._replayed(task, items)

    def _replayed(self, task: Task[Any, Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        starts = range(0, len(items), self._together)
        paths = [self._folder / f"{number}.pickle" for number in range(min(self._distinct, len(starts)))]
        for start, path in zip(starts, paths, strict=False):
            self._pool.submit(_answer, task, items[start : start + self._together], path).result()
        for number, start in enumerate(starts):
            content = paths[number % len(paths)].read_bytes()
            self._count(content)
            _, outcomes = pickle.loads(content)  # noqa: S301 - our own
            del content
            for index, (_, result) in zip(
                range(start, min(start + self._together, len(items))), outcomes, strict=False
            ):
                yield index, result

    def _sent(self, step: ScatterTask[Any] | DecideTask, spans: Sequence[Span[Any]]) -> Iterator[tuple[int, None]]:
        name, size = (SENT, self.a_piece) if isinstance(step, ScatterTask) else (DECIDED, max(1, len(spans[0].items)))
        Path(step.folder).mkdir(parents=True, exist_ok=True)
        for at, span in enumerate(spans):
            for first in range(span.first, span.stop, size):
                with open(piece_url(step.folder, name, first, min(first + size, span.stop)), "wb") as piece:
                    piece.truncate(HELD_BYTES)
            yield at, None

    def _settled(self, step: SettleTask[Any, Any], spans: Sequence[Span[Any]]) -> Iterator[tuple[int, Any]]:
        for at, span in enumerate(spans):
            found = [(index, Measured(self.settled(index), "worker 3", 0.1, 9_000, 9, 0)) for index, _ in span.named()]
            content = pickle.dumps(found, 5)
            self._count(content)
            if step.recorded:
                lines = json.dumps({str(index): one.result for index, one in found})
                Path(piece_url(step.folder, SETTLED, span.first, span.stop, "json")).write_text(lines)
            yield at, pickle.loads(content)  # noqa: S301 - our own

    def _count(self, content: bytes) -> None:
        self.largest, self.sent = max(self.largest, len(content)), self.sent + len(content)

    def close(self) -> None:
        """Nothing to end."""
