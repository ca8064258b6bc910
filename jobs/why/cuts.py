"""What each cut said of one sample: its values, where the cut's threshold is, and by how much it was passed or missed.

The numbers are those of the cuts' files; only the counts that rules go by are made again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.jobs.verify.finished import Finished, FinishedCut
from winnow.jobs.why.place import Place
from winnow.jobs.why.ranks import Mine, Standing
from winnow.pipeline.artifact import read_table
from winnow.pipeline.columns import column
from winnow.pipeline.order import reversed_order


@dataclass(frozen=True)
class Limit:
    """One number that a cut compares. margin: how far inside the limit it is; below 0 on the far side.

    limit: None where the cut has none that is known. rule: what stays, such as "at least".
    """

    what: str
    value: int | float
    limit: int | float | None
    margin: int | float | None
    rule: str


@dataclass(frozen=True)
class Said:
    """One cut's word on a sample. values: its columns. facts: what else the cut's files tell."""

    cut: str
    kind: str
    kept: bool
    values: Mapping[str, Any]
    limits: tuple[Limit, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> Limit | None:
        """The limit that decided against it: the first that it is beyond, else the one that it is on.

        A rule lets pass what is on its limit, so that is never what decided.
        """
        known = [(limit.margin, limit) for limit in self.limits if limit.margin is not None]
        beyond = [limit for margin, limit in known if margin < 0]
        if self.kind != "rules":
            beyond += [limit for margin, limit in known if margin == 0]
        return None if self.kept or not beyond else beyond[0]


@dataclass(frozen=True)
class Asked:
    """One cut, one sample, and where the sample stands in the cut's rankings, by their number."""

    cut: FinishedCut
    place: Place
    values: Mapping[str, Any]
    kept: bool
    ranks: Mapping[int, tuple[Mine, Standing]]


def deciding(job: Finished, place: Place) -> tuple[list[int], list[tuple[Mapping[str, Any], bool]]]:
    """The cuts that saw the sample, by number up to the one that dropped it, and (values, kept) of each."""
    numbers: list[int] = []
    found: list[tuple[Mapping[str, Any], bool]] = []
    if place.row is None or place.rejected is not None:
        return numbers, found
    for number, cut in enumerate(job.cuts):
        [row] = cut.artifact.read(place.item.index).slice(place.row, 1).to_pylist()
        kept = bool(row.pop("kept"))
        numbers.append(number)
        found.append((row, kept))
        if not kept:
            break
    return numbers, found


def said(asked: Asked) -> Said:
    """What the cut says, by its kind."""
    limits, facts = SAYS[asked.cut.kind](asked)
    return Said(asked.cut.name, asked.cut.kind, asked.kept, asked.values, tuple(limits), facts)


_Found = tuple[Sequence[Limit], Mapping[str, Any]]


def _least(what: str, value: float, limit: float | None, rule: str = "at least") -> Limit:
    """A limit from below; numbers that are equal to the last digit have margin 0, and uids decide."""
    return Limit(what, value, limit, None if limit is None else _difference(value, limit), rule)


def _most(what: str, value: float, limit: float | None, rule: str = "at most") -> Limit:
    return Limit(what, value, limit, None if limit is None else _difference(limit, value), rule)


def _difference(a: float, b: float) -> float:
    """a - b, whose sign is right for whole numbers that no float holds too."""
    whole = isinstance(a, int) and isinstance(b, int)
    return a - b if whole or not (math.isfinite(a) and math.isfinite(b)) else float(Fraction(a) - Fraction(b))


def _rank_facts(rank: tuple[Mine, Standing] | None, prefix: str = "") -> dict[str, Any]:
    if rank is None:
        return {}
    _, standing = rank
    return {f"{prefix}rank": standing.rank, f"{prefix}size": standing.size, f"{prefix}kept": standing.kept}


def _ranked(name: str, asked: Asked) -> _Found:
    """One group: the threshold asked for, or the value of the last sample that stays."""
    value, options = asked.values[name], asked.cut.options
    facts = _rank_facts(asked.ranks.get(0))
    if value is None:
        return [], {**facts, "note": "it has no value, and is dropped for that"}
    lowest = getattr(options, "keep", None) == "lowest"
    if (threshold := getattr(options, "threshold", None)) is not None:
        return [(_most if lowest else _least)(name, value, threshold, "below" if lowest else "above")], facts
    threshold = (asked.cut.artifact.done() or {}).get("threshold")
    return [(_most if lowest else _least)(name, value, cast(float | None, threshold))], facts


def _clustered(asked: Asked) -> _Found:
    """Its distance in its cluster, and the distance of the last that stays there, where the pass was made."""
    cut, cluster, distance = asked.cut, asked.values["cluster"], asked.values["distance"]
    facts: dict[str, Any] = {"cluster": cluster, **_rank_facts(asked.ranks.get(0), "cluster_")}
    if cut.kind == "density":
        [row] = read_table(cut.artifact.meta("density.parquet")).slice(cluster, 1).to_pylist()
        facts |= {name: row[name] for name in ("size", "quota", "complexity", "share")}
    if cut.options.keep == "random":
        return [], facts
    easy, rank = cut.options.keep == "easy", asked.ranks.get(0)
    last = None if rank is None or rank[1].last is None else abs(rank[1].last)
    return [(_most if easy else _least)("distance", distance, last)], facts


def _strata(asked: Asked) -> _Found:
    """Its place by hash in its stratum, or that it was among the hardest."""
    cut, stratum = asked.cut, asked.values["stratum"]
    name = "cosine" if cut.options.by is not None else "value"
    value = asked.values[name]
    if stratum is None:
        rank = asked.ranks.get(1)
        last = None if rank is None or rank[1].last is None else rank[1].last
        high = cut.options.hardest == "highest"
        if rank is not None and last is not None and high:  # beta goes by an order that has the lowest first
            last = reversed_order(np.array([last], rank[0].value.dtype))[0].item()
        limit = (_most if high else _least)(name, value, last)
        return [limit], {"note": f"among the hardest {cut.options.beta:.0%}, which beta drops"}
    [row] = read_table(cut.artifact.meta("strata.parquet")).slice(stratum, 1).to_pylist()
    return [], {**row, **_rank_facts(asked.ranks.get(0), "stratum_"), "note": "a hash of the uid draws in a stratum"}


def _duplicates(asked: Asked) -> _Found:
    epsilon, cosine = asked.cut.options.epsilon, asked.values["cosine"]
    if cosine is None:
        near = "no sample has the same bytes" if epsilon is None else f"no better sample is above {1 - epsilon:g}"
        return [], {"note": f"{near} that it was compared with; how near the nearest is was not stored"}
    if epsilon is None or cosine >= 1:
        return [], {"note": "the same bytes, or the same vector, as a better sample"}
    return [_most("cosine", cosine, 1 - epsilon)], {}


def _voted(asked: Asked) -> _Found:
    """Votes for its cluster."""
    table = read_table(asked.cut.artifact.meta("votes.parquet"))
    [row] = table.slice(asked.values["cluster"], 1).to_pylist()
    stay = column(table, "votes")[column(table, "kept")]
    least = asked.cut.options.min_votes if asked.cut.kind == "image_based" else int(stay.min(initial=1 << 62))
    return [_least("votes", row["votes"], least if asked.cut.kind == "image_based" or len(stay) else None)], row


def _epochs(asked: Asked) -> _Found:
    return [], {"note": f"in {len(asked.values['epochs'])} of {asked.cut.options.epochs} epochs"}


def _rules(asked: Asked) -> _Found:
    """Every rule that the cut has, with the sample's own number."""
    rules, place = asked.cut.options, asked.place
    caption = pa.array([place.caption or ""])
    trimmed = pc.utf8_trim_whitespace(caption)
    words = len(pc.utf8_split_whitespace(trimmed)[0]) if len(trimmed[0].as_py()) else 0
    numbers = {"words": words, "chars": pc.utf8_length(caption)[0].as_py()}
    limits = []
    for what, number in numbers.items():
        if (least := getattr(rules, f"min_{what}")) is not None:
            limits.append(_least(what, number, least))
        if (most := getattr(rules, f"max_{what}")) is not None:
            limits.append(_most(what, number, most))
    short, long = sorted((place.width or 0, place.height or 0))
    if not short and (rules.min_side is not None or rules.max_aspect is not None):
        return limits, {"note": "the size of its image is not known, and a rule on it does not let that pass"}
    if rules.min_side is not None:
        limits.append(_least("min_side", short, rules.min_side))
    if rules.max_aspect is not None:
        limits.append(_most("max_aspect", long / short, rules.max_aspect))
    return limits, {}


SAYS: Mapping[str, Callable[[Asked], _Found]] = {
    "rules": _rules,
    "duplicates": _duplicates,
    "similarity": partial(_ranked, "cosine"),
    "negclip": partial(_ranked, "contrast"),
    "density": _clustered,
    "prototypes": _clustered,
    "coverage": _strata,
    "normsim": partial(_ranked, "value"),
    "image_based": _voted,
    "feature_mapping": _voted,
    "random": partial(_ranked, "hash"),
    "score": partial(_ranked, "value"),
    "epochs": _epochs,
}
"""By kind of cut: its limits with the sample's numbers, and what else is worth saying."""
