"""The cut `rules`: keeps samples that pass simple rules on caption, image size and fields of the pool."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary
from winnow.stages.columns.caption_counts import count_chars, count_words
from winnow.stages.cuts.contract.explained import Asked, Explained, Limit, at_least, at_most
from winnow.stages.cuts.contract.finished import CutRows, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import Ranking
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.fields.limits import FieldLimits, broken_limits, check_limits, found
from winnow.stages.cuts.keeping import funnel, write_kept
from winnow.stages.pool_field import Field
from winnow.stages.survivors import Survivors

_COLUMNS = ("caption", "width", "height")
_UNSIZED = "the size of its image is not known, so it breaks every rule on the size"


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Rules(Cut):
    """Keep samples that pass every given rule.

    min_words, max_words: words of the caption, separated by white space. min_chars, max_chars: characters of the
    caption. min_side: the shorter side in pixels. max_aspect: longer side / shorter side. caption_matches,
    caption_excludes: regular expressions that must and must not be found anywhere in the caption. The syntax is RE2's.
    RE2 takes linear time for every expression, so it has no look-around and no back-reference. fields: by the name of
    a field of the pool, what it must be.
    DataComp's basic filter (Gadre et al. 2023) is min_words 3, min_chars 6, min_side 200, max_aspect 3, and English.
    """

    min_words: int | None = None
    max_words: int | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    min_side: int | None = None
    max_aspect: float | None = None
    caption_matches: str | None = None
    caption_excludes: str | None = None
    fields: Mapping[str, FieldLimits] | None = field(default=None, metadata=IF_GIVEN)
    kind: ClassVar[str] = "rules"

    def __post_init__(self) -> None:
        for name in ("caption_matches", "caption_excludes"):
            try:
                found(getattr(self, name) or "", pa.chunked_array([[""]]))
            except pa.ArrowInvalid as error:
                raise JobError(f"rules.{name} must be a regular expression in the syntax of RE2: {error}") from error

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """One stage over captions, sizes and fields."""
        return [RulesStage(self, survivors, tuple(survivors.field_named(name) for name in self.fields or {}))]

    def check(self, given: Given) -> None:
        """See Cut.check: the fields must be fields of the pool, or columns."""
        for name in self.fields or {}:
            given.check_field("rules.fields", name)

    def shown(self) -> Shown:
        """See Cut.shown."""
        return Shown(about="Samples stay that pass every given rule.", broken="broken")

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain: every given rule on words, characters, fields and size, with the number of the sample."""
        limits, place = [], asked.place
        limit = partial(at_least, ties=False), partial(at_most, ties=False)  # a number on its limit passes
        for what, number in _counts(place.caption or "").items():
            for says, most in zip(limit, (getattr(self, f"min_{what}"), getattr(self, f"max_{what}")), strict=True):
                if most is not None:
                    limits.append(says(what, number, most))
        facts = self._explain_fields(asked, limits)
        said = Explained(tuple(limits), facts, decided=asked.values.get("broken"))
        short, long = sorted((place.width or 0, place.height or 0))
        if not short and (self.min_side is not None or self.max_aspect is not None):
            return replace(said, facts={**facts, "note": "; ".join(filter(None, [facts.get("note"), _UNSIZED]))})
        if self.min_side is not None:
            limits.append(limit[0]("min_side", short, self.min_side))
        if self.max_aspect is not None:
            limits.append(limit[1]("max_aspect", long / short, self.max_aspect))
        return replace(said, limits=tuple(limits))

    def _explain_fields(self, asked: Asked, limits: list[Limit]) -> dict[str, Any]:
        """The values of the sample's fields as facts; their ranges are added to the limits."""
        facts: dict[str, Any] = {}
        for name, asks in (self.fields or {}).items():
            field = asked.cut.before.field_named(name)
            value = field.read(asked.place.item.index)[asked.place.row or 0].as_py()
            if value is None:
                facts["note"] = f"the pool has no {name} of it, so it breaks every rule on {name}"
                continue
            facts[field.label] = value
            if asks.min is not None:
                limits.append(at_least(f"fields.{name}", value, asks.min, ties=False))
            if asks.max is not None:
                limits.append(at_most(f"fields.{name}", value, asks.max, ties=False))
        return facts

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again: the first rule that each sample breaks. A sample that breaks none stays."""
        fields = {name: cut.before.field_named(name).read(item.index) for name in self.fields or {}}
        broken = broken_rules(self, cut.before.table(item.index, _COLUMNS), fields)
        n = len(cut.before.mask(item.index))
        first: list[str | None] = [None] * n
        for rule, mask in reversed([*broken.items()]):
            for row in np.flatnonzero(mask):
                first[row] = rule
        named = pa.array(first, pa.string())
        return {"broken": named, "kept": named.is_null()}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking]:
        """See Cut.rankings: each sample is decided by itself."""
        return ()


def _counts(caption: str) -> Mapping[str, int]:
    """The numbers of words and characters of a caption, as the rules count them."""
    text = pa.array([caption])
    return {"words": int(count_words(text)[0]), "chars": int(count_chars(text)[0])}


def broken_rules(
    rules: Rules, table: pa.Table, fields: Mapping[str, pa.ChunkedArray] | None = None
) -> Mapping[str, np.ndarray]:
    """For each given rule, which rows break it: bool (n,).

    table: caption (string), width, height (int, pixels; null if unknown). A row of unknown size breaks every rule on
    the size. fields: the value of every row in each field that the rules name; a row without one breaks `missing`.
    """
    broken: dict[str, np.ndarray] = {}
    captions = table["caption"]
    if rules.min_words is not None or rules.max_words is not None:
        _between(broken, "words", count_words(captions), rules.min_words, rules.max_words)
    if rules.min_chars is not None or rules.max_chars is not None:
        _between(broken, "chars", count_chars(captions), rules.min_chars, rules.max_chars)
    if rules.min_side is not None or rules.max_aspect is not None:
        width, height = column(table, "width", null=0), column(table, "height", null=0)
        short, long = np.minimum(width, height), np.maximum(width, height)
        if rules.min_side is not None:
            broken["min_side"] = short < rules.min_side
        if rules.max_aspect is not None:
            broken["max_aspect"] = (short == 0) | (long > rules.max_aspect * short)
    if rules.caption_matches is not None:
        broken["caption_matches"] = ~found(rules.caption_matches, captions)
    if rules.caption_excludes is not None:
        broken["caption_excludes"] = found(rules.caption_excludes, captions)
    for name, limits in (rules.fields or {}).items():
        broken |= broken_limits(f"fields.{name}", limits, (fields or {})[name])
    return broken


def _between(broken: dict[str, np.ndarray], what: str, values: np.ndarray, least: int | None, most: int | None) -> None:
    if least is not None:
        broken[f"min_{what}"] = values < least
    if most is not None:
        broken[f"max_{what}"] = values > most


@plain_dataclass(frozen=True)
class _Judge:
    stage: "RulesStage"
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        survivors = self.stage.survivors
        before = survivors.mask(item.index)
        first = np.full(len(before), -1)
        table = survivors.table(item.index, _COLUMNS)
        fields = {field.name: field.read(item.index) for field in self.stage.fields}
        broken = broken_rules(self.stage.rules, table, fields)
        for number, mask in reversed(list(enumerate(broken.values()))):
            first[mask & before] = number
        names = pa.array([*broken, None], pa.string()).take(pa.array(np.where(first < 0, len(broken), first)))
        sized = before & (column(table, "width", null=0) > 0) & (column(table, "height", null=0) > 0)
        after = before & (first < 0)
        unchecked = {name: int((before & np.asarray(values.is_null())).sum()) for name, values in fields.items()}
        more = {"unchecked": unchecked} if fields else {}
        return write_kept(self.out, item, before, after, {"broken": names}, sized=int(sized.sum()), **more)


@plain_dataclass(frozen=True)
class RulesStage:
    """One pass that applies the rules to every row that is still in."""

    rules: Rules
    survivors: Survivors
    fields: tuple[Field, ...] = field(default=(), metadata=IF_GIVEN)
    name: ClassVar[str] = "rules"
    version: ClassVar[int] = 2

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard: `kept`, and `broken`, the first rule that the row breaks.

        Raises DataError if there are rules on the size and no sample has one, because none could pass; and for a rule
        on a field of another type. The report's `unchecked` counts the samples without each field.
        """
        for one in self.fields:
            check_limits(f"rules.fields.{one.name}", (self.rules.fields or {})[one.name], one.kind())
        totals = run.fill(_Judge(self, out), out, self.name)
        came, sized = totals.number("in"), totals.number("sized")
        asked = [name for name in ("min_side", "max_aspect") if getattr(self.rules, name) is not None]
        if asked and came and not sized:
            raise DataError(
                f"rules.{' and rules.'.join(asked)} must know the width and height of samples, but none of {came:,} "
                f"samples has both. A pool of vectors must have them as numbers, or numbers as text, in columns "
                f"width and height (docs/pools.md has all names); rename its columns, or leave these rules out"
            )
        unchecked = totals.by_name("unchecked")
        notes = [
            f"{lack:,} of {came:,} samples have no {name}, so they fail" for name, lack in unchecked.items() if lack
        ]
        more = {"unchecked": dict(unchecked), "notes": notes} if self.fields else {}
        return funnel(totals, sized=sized, **more)
