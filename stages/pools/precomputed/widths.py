"""The width of vectors: the same for image and text of one encoder, and the same in all shards of a pool.

A shard without a readable row has no width; what its files say does not count.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from winnow.pipeline.errors import PoolError, ShardError
from winnow.pipeline.stage import Summary
from winnow.stages.pools.precomputed.blocks import Blocks

WIDTHS = "widths"
"""Entry of a shard's summary and of the stage's report: the width of the vectors by encoder."""


def same_width(named: Mapping[str, Blocks], url: str) -> None:
    """Raises ShardError if the named vectors of one shard differ in width. Files without vectors do not count."""
    widths = {name: blocks.width for name, blocks in named.items() if not blocks.empty}
    if len(set(widths.values())) > 1:
        raise ShardError(f"{url}: {' and '.join(widths)} must be as wide, but are {[*widths.values()]}", lasting=True)


def one_width(summaries: Sequence[Summary], urls: Sequence[str]) -> dict[str, int]:
    """The width of each encoder's vectors, from the summaries of all shards; absent if no shard has a row.

    urls: those of the shards. Raises PoolError if two shards differ.
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
