"""The width of vectors: the same for image and text of one encoder, and the same in all shards of a pool.

A shard without a readable row has no width; what its files say does not count.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from winnow.pipeline.errors import PoolError, ShardError
from winnow.pipeline.stage import Summary
from winnow.pipeline.storage import Identity
from winnow.stages.pools.precomputed.blocks import Blocks

WIDTHS = "widths"
"""Entry of a shard's summary and of the stage's report: the width of the vectors by encoder."""


def same_width(named: Mapping[str, Blocks], url: str) -> None:
    """Raises ShardError if the named vectors of one shard differ in width. Files without vectors do not count."""
    widths = {name: blocks.width for name, blocks in named.items() if not blocks.empty}
    if len(set(widths.values())) > 1:
        raise ShardError(f"{url}: {' and '.join(widths)} must be as wide, but are {[*widths.values()]}", lasting=True)


class Widths:
    """Hears of every shard, in any order and any number of times, which width the vectors of each encoder have.

    Holds a shard for each width of each encoder.
    """

    def __init__(self) -> None:
        self._first: dict[str, dict[int, int]] = {}  # by encoder and width: the first shard that has it

    def __call__(self, index: int, summary: Summary) -> None:
        """A shard's summary: its widths by encoder, none without a row."""
        for name, width in cast(Mapping[str, int], summary.get(WIDTHS, {})).items():
            first = self._first.setdefault(name, {})
            first[width] = min(index, first.get(width, index))

    def one(self, shards: Sequence[Identity]) -> dict[str, int]:
        """The width of each encoder's vectors; none if no shard has a row. Raises PoolError if two shards differ."""
        for name, first in self._first.items():
            if len(first) > 1:
                (here, width), (there, other) = sorted((index, width) for width, index in first.items())[:2]
                raise PoolError(
                    f"vectors of {name} must have one width in all shards, but those of {shards[here].url} have "
                    f"{width} numbers and those of {shards[there].url} {other}; give the shards of one model, or each "
                    f"its own job"
                )
        return {name: width for name, first in self._first.items() for width in first}
