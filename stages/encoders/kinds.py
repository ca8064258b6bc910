"""The table of encoders by the name that a job gives them: winnow's own, and those of installed plugins."""

from collections.abc import Mapping

from winnow.pipeline.plugins import Offered, of_kind
from winnow.stages.encoders.brought.brought import Brought
from winnow.stages.encoders.clip_model import OpenClip
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.encoders.timm_model import Timm

_OWN: dict[str, type[Encoder]] = {encoder.kind: encoder for encoder in (OpenClip, Timm, Brought)}

ENCODERS: Mapping[str, type[Encoder]] = Offered("winnow.encoders", _OWN, of_kind(Encoder))
"""Every encoder that a job can name by `kind`."""


def chosen_by(options: Mapping[str, object]) -> type[Encoder]:
    """The encoder for options without a kind: the one whose `named_by` is among them, else open_clip's."""
    return next((encoder for encoder in reversed(_OWN.values()) if encoder.named_by in options), OpenClip)
