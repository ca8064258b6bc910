"""Finished jobs whose captions are hostile, and a reader that tells what a browser would make of their pages."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.test_run import job_values
from tests.pools import jpeg, members, pair, write_tar
from winnow.jobs.job_file.job import parse
from winnow.jobs.report import make_report
from winnow.jobs.run import run_job
from winnow.pipeline.executors.local import LocalExecutor

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "<!-- </script> <script>",
    '" onmouseover="alert(3)" x="',
    "\u2028 ${alert(4)} {{ 7 * 7 }} </title></style>",
    "\u202e <a href=https://elsewhere.example/>plain</a>",
)
"""Captions as the web has them."""

POLICY: list[dict[str, Any]] = [
    {"rules": {"min_words": 3}},
    {"duplicates": {"by": "clip", "epsilon": 0.0005, "clusters": 3}},
    {"similarity": {"by": "clip", "fraction": 0.8}},
    {"density": {"by": "clip", "fraction": 0.5, "clusters": 4}},
]


def hostile_job(folder: Path) -> dict[str, Any]:
    """72 samples in three tars: every caption hostile, six useless, six copies, three images that are none."""
    for shard in range(3):
        samples = []
        for n in range(24 * shard, 24 * shard + 24):
            parts = pair(n, "IMG" if n % 12 == 5 else f"{HOSTILE[n % 6]} words of picture {n}")
            if n % 12 == 7:
                parts["jpg"] = jpeg(n - 6)
            if n % 24 == 9:
                parts["jpg"] = b"<script>alert(5)</script>"
            samples.append((f"{n:04d}<b>", parts))
        write_tar(folder / f"pool/{shard:05d}.tar", members(samples))
    return job_values(folder, POLICY, limits={"max_reject_fraction": 0.1})


def done(values: dict[str, Any]) -> dict[str, Any]:
    """The counts of a job that was run to its end."""
    return dict(run_job(parse(values), LocalExecutor(2), lambda line: None).counts)


def made(values: dict[str, Any], out: Path, compare: str | None = None, workers: int = 2) -> "Page":
    """The page of a finished job."""
    make_report(values["store"], values["name"], LocalExecutor(workers), compare, str(out))
    return Page.read(out.read_bytes())


@dataclass
class Tag:
    """One element as it was opened."""

    name: str
    attributes: dict[str, str]


@dataclass
class Page:
    """Every element, the text outside of scripts and styles, the scripts and the rows of tables by caption."""

    raw: str
    tags: list[Tag] = field(default_factory=list)
    text: str = ""
    scripts: list[tuple[dict[str, str], str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    @classmethod
    def read(cls, html: bytes) -> "Page":
        """Parse a page."""
        page = cls(html.decode())
        _Reader(page).feed(page.raw)
        return page

    @property
    def data(self) -> Any:
        """What its script reckons with; refuses Infinity and NaN, as a browser does."""
        [text] = [text for attributes, text in self.scripts if attributes.get("type") == "application/json"]
        return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))

    def named(self, name: str, **attributes: str) -> list[Tag]:
        """Elements of that name and these attributes."""
        return [tag for tag in self.tags if tag.name == name and attributes.items() <= tag.attributes.items()]

    def row(self, *starts: str) -> list[str]:
        """The first row of a table whose first cells are these."""
        return next(row for row in self.rows if row[: len(starts)] == list(starts))


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page
        self._inside = ""
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._page.tags.append(Tag(tag, found))
        if tag in ("script", "style"):
            self._inside = tag
            self._page.scripts += [(found, "")] if tag == "script" else []
        starts: dict[str, Callable[[], None]] = {"tr": lambda: self._page.rows.append([]), "td": self._open}
        starts.get("td" if tag == "th" else tag, lambda: None)()

    def _open(self) -> None:
        self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""
        if tag in ("td", "th") and self._cell is not None:
            self._page.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, text = self._page.scripts[-1]
            self._page.scripts[-1] = attributes, text + data
        elif not self._inside:
            self._page.text += data
            if self._cell is not None:
                self._cell.append(data)
