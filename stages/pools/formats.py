"""The table of pool formats by the name that a job gives them: winnow's own, and those of installed plugins."""

from collections.abc import Mapping

from winnow.pipeline.plugins import Offered, of_kind
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.links import Links
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.vectors import Vectors
from winnow.stages.pools.webdataset import Webdataset

_OWN: dict[str, type[Reader]] = {
    reader.kind: reader for reader in (Webdataset, Parquet, Datacomp, ClipRetrieval, Vectors, Links)
}

FORMATS: Mapping[str, type[Reader]] = Offered("winnow.pools", _OWN, of_kind(Reader))
"""Every format a pool can name."""


def format_of(pattern: str) -> str:
    """The format of shards if a job names only the shards: the first format with their suffix."""
    return next((kind for kind, reader in _OWN.items() if pattern.endswith(reader.suffix)), next(iter(_OWN)))
