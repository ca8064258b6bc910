"""The pool formats by the name a job gives them: with images, or with vectors that were computed before."""

from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.vectors import Vectors
from winnow.stages.pools.webdataset import Webdataset

__all__ = [
    "FORMATS",
    "ClipRetrieval",
    "Datacomp",
    "ImageReader",
    "Parquet",
    "Reader",
    "VectorReader",
    "Vectors",
    "Webdataset",
]

ImageReader = Webdataset | Parquet
"""Formats whose samples() are images to embed."""

VectorReader = Datacomp | ClipRetrieval | Vectors
"""Formats whose vectors() are read in place, without images."""

Reader = ImageReader | VectorReader
"""Any format."""

FORMATS: dict[str, type[Reader]] = {
    "webdataset": Webdataset,
    "parquet": Parquet,
    "datacomp": Datacomp,
    "clip-retrieval": ClipRetrieval,
    "vectors": Vectors,
}
"""All formats."""
