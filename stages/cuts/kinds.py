"""The cuts that a policy can name: winnow's own, a file each, and those of installed plugins."""

import dataclasses
import re
from collections.abc import Mapping

from winnow.pipeline.plugins import Offered
from winnow.stages.cuts.any import AnyOf
from winnow.stages.cuts.coverage import Coverage
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.density import Density
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.cuts.epochs import Epochs
from winnow.stages.cuts.fields.cap import Cap
from winnow.stages.cuts.lists.subset import Listed
from winnow.stages.cuts.mix import Mix
from winnow.stages.cuts.negclip import Negclip
from winnow.stages.cuts.normsim import Normsim
from winnow.stages.cuts.prototypes import Prototypes
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.score import Score
from winnow.stages.cuts.similarity import Similarity
from winnow.stages.cuts.targets.feature_mapping import FeatureMapping
from winnow.stages.cuts.targets.image_based import ImageBased

GROUP = "winnow.cuts"
"""The group of entry points in which other distributions offer cuts."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*")  # no number at the end: a second cut gets one
_TAKEN = (
    "pool",
    "samples",
    "vectors",
    "field",
    "column",
    "distinct",
    "manifest",
    "shards",
)  # steps of every job, whose names cuts must not have

OWN: Mapping[str, type[Cut]] = {
    cut.kind: cut
    for cut in (
        Rules,
        Duplicates,
        Similarity,
        Negclip,
        Density,
        Prototypes,
        Coverage,
        Normsim,
        ImageBased,
        FeatureMapping,
        Cap,
        Random,
        Score,
        Mix,
        Listed,
        AnyOf,
        Epochs,
    )
}
"""Winnow's own cuts. A new cut is one file, one test file, and one name here."""


def _wrong(name: str, found: object) -> str | None:
    """Why an object that a plugin offers cannot be a cut of that name; None if it can."""
    if not (isinstance(found, type) and issubclass(found, Cut) and dataclasses.is_dataclass(found)):
        return "must be a dataclass that inherits winnow.stages.cuts.cut.Cut"
    if getattr(found, "kind", None) != name:
        return f"must have the name of its entry point as kind, got {getattr(found, 'kind', None)!r}"
    if not _NAME.fullmatch(name) or name in _TAKEN:
        return f"must be named by lower-case words, such as my_cut, and none of {', '.join(_TAKEN)}"
    return None


CUTS: Mapping[str, type[Cut]] = Offered(GROUP, OWN, _wrong)
"""Every cut by its name. The cut of a plugin is imported when a job names it."""
