"""The width of vectors: the same for image and text of one encoder, and the same in all shards of a pool.

A shard without a readable row has no width of its own, whatever its files say.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from winnow.pipeline.errors import PoolError, ShardError
from winnow.pipeline.stage import Summary
from winnow.stages.pools.precomputed.blocks import Blocks

WIDTHS = "widths"
"""In the summary of a shard and in the report of the stage: the width of the vectors by encoder."""


def same_width(named: Mapping[str, Blocks], url: str) -> None:
    """Raises ShardError where vectors of one shard, by name, differ in width; where there are none they have none."""
    widths = {name: blocks.width for name, blocks in named.items() if not blocks.empty}
    if len(set(widths.values())) > 1:
        raise ShardError(f"{url}: {' and '.join(widths)} must be as wide, but are {[*widths.values()]}", lasting=True)


def one_width(summaries: Sequence[Summary], urls: Sequence[str]) -> dict[str, int]:
    """The width of each encoder's vectors, by the summaries of all shards (at urls); absent where no shard has a row.

    Raises PoolError where two shards differ.
    """
    found: dict[str, tuple[int, str]] = {}
    for summary, url in zip(summaries, urls, strict=True):
        for name, width in cast(Mapping[str, int], summary.get(WIDTHS, {})).items():
            first, where = found.setdefault(name, (width, url))
            if width != first:
                raise PoolError(
                    f"vectors of {name} must have one width in all shards, but those of {where} have {first} "
                    f"numbers and those of {url} {width}; give the shards of one model, or each its own job"
                )
    return {name: width for name, (width, _) in found.items()}
