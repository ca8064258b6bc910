"""The pool formats by the name a job gives them: with images, or with vectors that were computed before."""

from stages.formats.clip_retrieval import ClipRetrieval
from stages.formats.datacomp import Datacomp
from stages.formats.parquet import Parquet
from stages.formats.vectors import Vectors
from stages.formats.webdataset import Webdataset

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
