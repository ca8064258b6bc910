"""Fills an artifact with a file per shard, and puts a file without samples where a shard cannot be read for good."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from winnow.pipeline.artifact import Artifact, read_schema
from winnow.pipeline.errors import FailedShards
from winnow.pipeline.executors.contract import Needs, Task
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.totals import Told, Totals
from winnow.stages.rejects import LIKE

GiveUp = Callable[[ShardItem, str, pa.Schema, Summary], None]
"""Commits the file of a shard that failed in every try: (shard, why, columns, entries of its summary)."""


def filled(
    run: Run,
    task: Task[ShardItem, Summary],
    out: Artifact,
    label: str,
    needs: Needs | None,
    told: Sequence[Told],
    give_up: GiveUp,
) -> Totals:
    """Run.fill_task; then `give_up` for each shard that failed in every try, if the run's limits allow that.

    Raises FailedShards if the limits do not, or if no shard can be read; what `told` raises ends the pass.
    """
    try:
        return run.fill_task(task, out, label, needs, told)
    except FailedShards as failed:
        readable = (index for index in sorted(out.present()) if LIKE not in out.summary(index))
        like = next(readable, None)
        if len(failed.failures) > run.limits.max_failed_shards or like is None:
            raise
        columns = read_schema(out.shard(like)).remove_metadata()
        items = {item.url: item for item in run.items}
        for url, message in failed.failures:
            give_up(items[url], message, columns, {LIKE: run.items[like].url})
    return run.fill_task(task, out, label, needs, told)
