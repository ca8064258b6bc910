"""Encoders: image-text pairs to unit vectors; the only home of torch, open_clip, timm and PIL.

The configuration is imported without torch, so that reading a job stays fast. `Bank` and `EncodedBatch` need torch and
are imported on first use.
"""

from typing import TYPE_CHECKING

from winnow.stages.encoders.clip_model import OpenClip
from winnow.stages.encoders.encoding import Encoding
from winnow.stages.encoders.timm_model import Timm

if TYPE_CHECKING:
    from winnow.stages.encoders.bank import Bank
    from winnow.stages.encoders.batches import EncodedBatch

__all__ = ["Bank", "EncodedBatch", "Encoding", "OpenClip", "Timm"]


def __getattr__(name: str) -> object:
    if name not in ("Bank", "EncodedBatch"):
        raise AttributeError(f"winnow.stages.encoders has no {name!r}")
    from winnow.stages.encoders import bank

    return getattr(bank, name)
