"""Prints the answer of `winnow why` on a terminal, with text from the pool escaped."""

from typing import Any

from rich.console import Console

from winnow.jobs.why.cuts import Said
from winnow.jobs.why.explain import Why
from winnow.jobs.why.place import shown_shard
from winnow.pipeline.terminal import escaped
from winnow.stages.cuts.contract.explained import FoundSample, Limit

_LONG = 600  # characters of a caption


def show_why(why: Why, console: Console) -> None:
    """Print where the sample is, how each cut judged it, and what decided."""

    def say(text: str = "", style: str = "") -> None:
        console.print(escaped(text), style=style, markup=False, highlight=False, soft_wrap=True, emoji=False)

    place = why.place
    _show_place(place, say)
    if place.rejected is not None:
        say(f"rejected  {place.rejected.kind}: {place.rejected.message}", "bold red")
        return
    for cut in why.said:
        say()
        say(f"{cut.cut}: {'kept' if cut.kept else 'dropped'}", "bold" if cut.kept else "bold red")
        for line in lines_of(cut):
            say(f"  {line}")
    if (twin := why.twin) is not None:
        fate = "which is kept" if twin.by is None else f"which {twin.by} dropped later"
        say()
        say(f"duplicate of {twin.place.uid}, {fate}")
        _show_place(twin.place, say)
    say()
    say(verdict_of(why), "bold green" if why.verdict == "kept" else "bold red")


def verdict_of(why: Why) -> str:
    """One line: kept, or which cut dropped it and by how much."""
    if why.verdict == "kept":
        said = [cut for cut in why.said if cut.part_of is None]
        near = [(limit.margin, cut.cut, limit) for cut in said for limit in cut.limits if limit.margin is not None]
        closest = min(near, key=lambda found: found[0] / max(abs(found[2].limit or 0), 1e-12), default=None)
        more = "" if closest is None else f"; nearest to its limit: {closest[1]}, {said_limit(closest[2])}"
        return f"kept by every cut{more}"
    last = why.said[-1]
    if (decided := last.missed) is not None:
        return f"dropped by {last.cut}: {said_limit(decided)}"
    return f"dropped by {last.cut}" + (f": {last.decided}" if last.decided else "")


def lines_of(cut: Said) -> list[str]:
    """A cut's judgement as lines of text: first the values with their limits, then the rest."""
    told = {limit.what for limit in cut.limits}
    lines = [said_limit(limit) for limit in cut.limits]
    values = {name: value for name, value in cut.values.items() if name not in told and value is not None}
    ranks = [name.removesuffix("rank") for name in cut.facts if name.endswith("rank")]
    for prefix in ranks:
        rank, size, kept = (cut.facts[f"{prefix}{name}"] for name in ("rank", "size", "kept"))
        where = f" in its {prefix.rstrip('_')}" if prefix else ""
        lines.append(f"rank {rank:,} of {size:,}{where}; {kept:,} are kept")
    ranked = {f"{prefix}{name}" for prefix in ranks for name in ("rank", "size", "kept")}
    facts = {n: value for n, value in cut.facts.items() if n not in values and n not in {"note", *ranked}}
    lines += [", ".join(f"{name} {_number(value)}" for name, value in part.items()) for part in (values, facts) if part]
    return [*lines, *([cut.facts["note"]] if "note" in cut.facts else [])]


def said_limit(limit: Limit) -> str:
    """A value, its limit and the distance between them, as text."""
    if limit.limit is None or limit.margin is None:
        return f"{limit.what} {_number(limit.value)}"
    how = f"{'passes' if limit.margin >= 0 else 'fails'} by {_number(abs(limit.margin))}"
    if limit.margin == 0:
        how = "equal" if isinstance(limit.value, int) or not limit.ties else "equal, so uids decide"
    value, end = _number(limit.value), _number(limit.limit)
    if value == end and limit.margin != 0:
        value, end = repr(limit.value), repr(limit.limit)
    return f"{limit.what} {value}, must be {limit.rule} {end}: {how}"


def _show_place(place: FoundSample, say: Any) -> None:
    say(f"uid       {place.uid or 'none, because the sample was rejected'}")
    say(f"shard     {shown_shard(place.item)}, {place.item.url}")
    say(f"key       {place.key}, sample {place.position} of the shard")
    if place.alike:
        say(f"          {place.alike} other samples of the shard have this key; this is the first")
    if place.width:
        say(f"image     {place.width} x {place.height}")
    if place.caption is not None:
        long = len(place.caption) > _LONG
        say(f"caption   {place.caption[:_LONG]}{' …' if long else ''}")


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"
