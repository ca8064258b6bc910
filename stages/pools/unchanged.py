"""Checks, whenever a stage opens an input shard, that it is still the file that the run listed."""

from functools import lru_cache
from typing import cast

from winnow.pipeline import storage
from winnow.pipeline.adoption import PARTS
from winnow.pipeline.artifact import Artifact, read_json
from winnow.pipeline.errors import ShardError
from winnow.pipeline.fingerprint import fingerprint
from winnow.stages.pools.pool import as_one
from winnow.stages.pools.reader import Reader


def check_unchanged(samples: Artifact, index: int, url: str, reader: Reader) -> None:
    """Raises ShardError if shard `index` has changed since the run listed it, StorageError if it does not exist.

    samples: the artifact of the stage `samples`, finished or not. Cost: one request for each file of the shard;
    the list is read once per process.
    """
    found = as_one([storage.identity_of(name) for name in (url, *reader.companions(url))])
    if fingerprint(found, digits=32) != _listed(samples.meta(PARTS))[index]:
        raise ShardError(
            f"{url} must stay as it was when the run listed it, but is another file now, of {found.size} bytes; "
            f"run the same command again, which reads this shard anew and keeps the results of the others"
        )


@lru_cache(maxsize=4)
def _listed(url: str) -> tuple[str, ...]:
    """Fingerprint of each shard's identity. The artifact's name depends on all of them, so the file never changes."""
    return tuple(cast(list[str], read_json(url)["parts"]))
