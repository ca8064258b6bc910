"""Renders the HTML page; escapes every text, because captions are untrusted, and loads nothing from elsewhere.

Jinja autoescapes every text. Numbers for the script are JSON without a `<`. The page's Content-Security-Policy allows
only two scripts, by their hashes, and only pictures that are inside the page.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from winnow.jobs.job_file.yaml_text import dumps
from winnow.jobs.report.concepts import Concept
from winnow.jobs.report.facts import CutFacts, Facts
from winnow.jobs.report.overlap import Overlap
from winnow.jobs.report.samples import ShardRow, ShownSample
from winnow.jobs.report.scan import ScanTotals

_PICTURE_BYTES = 7_000_000  # of data URIs; the library has 5 MB, and a page stays below 15 MB
_SLIDING_CONCEPTS = 5000  # most concepts whose quotas the page computes itself


@dataclass(frozen=True)
class Pair:
    """Two near or equal samples. border: True for a pair among the least similar. note: how similar they are."""

    border: bool
    dropped: ShardRow
    kept: ShardRow
    note: str


@dataclass(frozen=True)
class Looked:
    """What was read from a bounded sample of the pool. pairs, concepts: by cut. samples: of galleries, by place."""

    part: ScanTotals
    ranges: Mapping[str, tuple[float, float]]
    pairs: Mapping[str, Sequence[Pair]]
    samples: Mapping[ShardRow, ShownSample]
    concepts: Mapping[str, Sequence[Concept]]
    sampled_shards: int
    pictured_shards: int
    has_pictures: bool


@dataclass(frozen=True)
class Compared:
    """Another job, and its overlap with this one."""

    facts: Facts
    overlap: Overlap

    def beside(self, facts: Facts) -> list[tuple[str, CutFacts | None, CutFacts | None, list[str]]]:
        """(cut, in this job, in the other, options that differ): first the cuts of this job, then the others."""
        mine, others = ({cut.name: cut for cut in job.cuts} for job in (facts, self.facts))
        return [
            (name, mine.get(name), others.get(name), _differing(mine.get(name), others.get(name)))
            for name in dict.fromkeys([*mine, *others])
        ]


def _differing(one: CutFacts | None, other: CutFacts | None) -> list[str]:
    if one is None or other is None:
        return []
    names = [name for name in {**one.options, **other.options} if one.options.get(name) != other.options.get(name)]
    return [f"{name} {_option(one.options.get(name))} → {_option(other.options.get(name))}" for name in names]


@dataclass(frozen=True)
class View:
    """Everything that a page shows."""

    facts: Facts
    pool_bytes: int
    shards: int
    looked: Looked
    compared: Compared | None


def render_page(view: View) -> bytes:
    """The whole page, UTF-8."""
    script, library = _own("page.js"), _library()
    allowed = " ".join(f"'sha256-{_digest(text)}'" for text in (library, script))
    album = _Album(view.looked)
    text = (
        _environment()
        .get_template("page.html")
        .render(
            view=view,
            facts=view.facts,
            looked=view.looked,
            policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
            f"base-uri 'none'; form-action 'none'",
            style=_own("style.css"),
            script=script,
            library=library,
            data=data_of(view),
            album=album,
            job_text=dumps(dict(view.facts.job), allow_unicode=True),
        )
    )
    return text.encode()


class _Album:
    """Gives a page the samples of its galleries, with pictures until their byte budget is spent."""

    def __init__(self, looked: Looked) -> None:
        self._looked = looked
        self._left = _PICTURE_BYTES

    def shelf(self, cut: str, name: str) -> list[tuple[ShownSample, str]]:
        """(sample, note) of each pick of a gallery, the lowest rank first."""
        picks = sorted(self._looked.part.picks.get((cut, name), []))
        return [(self.at((pick.index, pick.row)), pick.note) for pick in picks]

    def at(self, place: ShardRow) -> ShownSample:
        """One sample; without its picture if the page would become too large."""
        sample = self._looked.samples[place]
        if len(sample.picture) > self._left:
            return ShownSample(sample.key, sample.caption, "", "no room on this page")
        self._left -= len(sample.picture)
        return sample


def data_of(view: View) -> dict[str, Any]:
    """The data for the page's script."""
    cuts = view.facts.cuts
    histograms = {cut.name: _histogram(cut, view.looked) for cut in cuts if cut.name in view.looked.part.histograms}
    scatters = {name: _scatter(concepts) for name, concepts in view.looked.concepts.items() if concepts}
    sliders = {cut.name: _slider(cut, view) for cut in cuts if slides(cut, view.looked)}
    return {"pool": view.facts.counts["pool"], "histograms": histograms, "scatters": scatters, "sliders": sliders}


def slides(cut: CutFacts, looked: Looked) -> bool:
    """Whether the page can show what another amount would keep; not for one of several cuts that keep together."""
    if cut.part_of is not None:
        return False
    if cut.concepts is not None:
        return cut.asks_a_fraction and len(cut.concepts) <= _SLIDING_CONCEPTS and cut.came > 0
    return cut.asks_a_fraction and cut.slides and cut.name in looked.part.histograms


def _histogram(cut: CutFacts, looked: Looked) -> dict[str, Any]:
    low, high = looked.ranges[cut.name]
    kept, dropped = looked.part.histograms[cut.name].tolist()
    names = {"label": cut.label, "lowest": cut.shown.lowest, "threshold": cut.threshold if cut.slides else None}
    return {**names, "low": low, "high": high, "kept": kept, "dropped": dropped}


def _scatter(concepts: Sequence[Concept]) -> dict[str, Any]:
    names = ("cluster", "name", "size", "complexity", "kept_share", "pictured")
    return {name: [getattr(concept, name) for concept in concepts] for name in names}


def _slider(cut: CutFacts, view: View) -> dict[str, Any]:
    """The data of a slider: samples that came, samples kept, and how later cuts would shrink another number."""
    path = f"{cut.finished.path}.fraction"
    found = {"came": cut.came, "kept": cut.kept, "of": cut.options.get("of", "survivors"), "path": path}
    later = [_later(other) for other in view.facts.cuts[cut.place + 1 :] if other.part_of is None]
    if cut.concepts is None:
        return {**found, "later": later}
    size, share = (np.asarray(cut.concepts[name]) for name in ("size", "share"))
    more = {"size": size.tolist(), "share": share.tolist(), "balance": cut.options.get("balance", 0.0)}
    return {**found, "later": later, **more}


def _later(cut: CutFacts) -> dict[str, Any]:
    """How a later cut would treat more or fewer samples: a fixed count, a share of the pool, or its share so far."""
    if cut.options.get("count") is not None:
        return {"count": cut.options["count"]}
    if cut.options.get("fraction") is not None and cut.options.get("of") == "pool":
        return {"pool": cut.options["fraction"]}
    return {"share": cut.kept / cut.came if cut.came else 0.0}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("winnow.jobs", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = {"n": _number, "share": _share, "size": _bytes, "time": _time, "amount": _amount, "option": _option}
    environment.filters |= formats
    environment.globals["slides"] = slides
    return environment


def _own(name: str) -> str:
    return files("winnow.jobs.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    # a browser hashes the script after parsing, which turns every line end into \n
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _number(value: float) -> str:
    return f"{value:,}"


def _share(part: float, whole: float = 1) -> str:
    return f"{100 * part / whole:.1f}\N{NO-BREAK SPACE}%" if whole else "–"


def _amount(value: float | None) -> str:
    """Four significant digits; integers in full."""
    if value is None:
        return "–"
    return f"{value}" if isinstance(value, int) else f"{value:.4g}"


def _option(value: object) -> str:
    """An option's value as in the job file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
