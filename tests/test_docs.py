"""Every snippet in the docs is a job that parses, every table is the code's, every link leads somewhere."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tree import PAGE, ROOT, with_tree
from winnow.jobs.filter_network import filter_job
from winnow.jobs.job_file.job import load_job, parse
from winnow.jobs.job_file.resources import Resources
from winnow.pipeline.stage import Limits
from winnow.stages.cuts.kinds import CUTS
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.brought.brought import Brought
from winnow.stages.encoders.brought.joined import NO_VECTOR
from winnow.stages.pools.formats import FORMATS
from winnow.stages.rejects import NO_VECTORS, REPEATED, UNREADABLE

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")], key=lambda path: str(path))
JOBS = sorted(ROOT.glob("jobs/*.yaml"))
IMAGES = {"shards": "pool/*.tar"}
ENCODERS = {
    "clip": {"model": "ViT-B-32", "pretrained": "openai"},
    "dino": {"timm": "vit_small_patch14_dinov2"},
}
PROMISES = ("hardware", "hours", "GB", "expects")


def named(paths: list[Path]) -> pytest.MarkDecorator:
    """Parametrize by path, named as people name it."""
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


def section(page: Path, title: str) -> str:
    """The text under a heading up to the next one of its level or above."""
    text = page.read_text()
    heading = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert heading, f"{page.name} has no section {title}"
    rest = text[heading.end() :]
    return re.split(rf"^#{{1,{len(heading[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def options(text: str) -> dict[str, object]:
    """Name and default of each row of the first `| option | default | what |` table; MISSING if required."""
    _, _, table = text.partition("| option | default | what |\n|---|---|---|\n")
    found: dict[str, object] = {}
    for row in table.split("\n\n")[0].splitlines():
        names, default = row.split("|")[1:3]
        value = dataclasses.MISSING if default.strip() == "required" else json.loads(default.strip().strip("`"))
        found |= dict.fromkeys(re.findall(r"`(\w+)`", names), value)
    return found


def fields(kind: type) -> dict[str, object]:
    """Name, as a job writes it, and default of each option of a dataclass; lists for tuples, as in YAML."""
    found = {}
    for field in dataclasses.fields(kind):
        described = getattr(kind, "__pydantic_fields__", {}).get(field.name)
        default = field.default
        if described is not None:
            default = dataclasses.MISSING if described.is_required() else described.default
        name = getattr(described, "alias", None) or field.name
        found[name] = list(default) if isinstance(default, tuple) else default
    return found


@named([path for path in PAGES if path.name != "extending.md"])  # its job names plugins; test_extending.py runs it
def test_snippets_are_jobs_that_parse(path: Path) -> None:
    for snippet in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        written = yaml.safe_load(snippet)
        if "clean" in written:  # of `winnow train-filter`
            filter_job.parse_filter_job({"name": "snippet", **written})
            continue
        job = {"name": "snippet", "store": "store", "pool": IMAGES, **written}
        if "embeddings" not in job and job["pool"].get("format") in (None, "webdataset", "parquet"):
            job["embeddings"] = ENCODERS
        parse(job)


@named(PAGES)
def test_links_lead_somewhere(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        assert page.exists(), f"{path.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            assert anchor in [_anchor(title) for title in titles], f"{path.name} links to {target}"


def _anchor(title: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", title.replace("\\", ""))
    return kept.lower().replace(" ", "-")


@pytest.mark.parametrize("kind", CUTS)
def test_options_of_each_cut(kind: str) -> None:
    assert options(section(ROOT / "docs/cuts.md", kind)) == fields(CUTS[kind])


@pytest.mark.parametrize("kind", FORMATS)
def test_options_and_rejects_of_each_format(kind: str) -> None:
    text = section(ROOT / "docs/pools.md", kind)
    assert options(text) == fields(FORMATS[kind])
    reader: Any = FORMATS[kind]
    doc = (reader.rows if "rows" in vars(reader) else reader.samples).__doc__
    kinds = re.search(r"Kinds: ([^.]*)\.", doc)
    said = re.search(r"^Rejected: ((?:.+\n)+)", text, re.MULTILINE)
    assert kinds
    assert said
    assert set(re.findall(r"`([\w-]+)`", said[1])) == set(re.findall(r"\w+(?:-\w+)+", kinds[1]))


def test_every_reject_is_explained_once() -> None:
    page = ROOT / "docs/pools.md"
    said = re.findall(r"^Rejected: ((?:.+\n)+)", page.read_text(), re.MULTILINE)
    of_images = {"image-empty", "image-decode", "image-too-large"}
    of_pools = {UNREADABLE, NO_VECTOR, NO_VECTORS, REPEATED}
    explained = re.findall(r"^\| `([\w-]+)` \|", section(page, "What is rejected"), re.MULTILINE)
    assert sorted(explained) == sorted(set(re.findall(r"`([\w-]+)`", " ".join(said))) | of_images | of_pools)


def test_options_of_vectors_that_exist() -> None:
    assert options(section(ROOT / "docs/pools.md", "Vectors that exist already")) == fields(Brought)


@pytest.mark.parametrize(("title", "kind"), [("encoding", Encoding), ("resources", Resources), ("limits", Limits)])
def test_options_of_a_job(title: str, kind: type) -> None:
    assert options(section(ROOT / "docs/pools.md", title)) == fields(kind)


@named(JOBS)
def test_job_files_parse_and_promise(path: Path) -> None:
    found = filter_job.load_filter_job(str(path)) if "\nclean:" in path.read_text() else load_job(str(path))
    assert found.name == path.stem.replace("_", "-")
    header = path.read_text().partition("\nname:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    if path.stem != "quickstart":
        missing = [word for word in PROMISES if not re.search(rf"^# {word} ", header, re.MULTILINE)]
        assert not missing
        assert "estimate" in header or "measured" in header


def test_the_tree_is_that_of_the_files() -> None:
    assert PAGE.read_text() == with_tree(PAGE.read_text()), "run: python -m tests.tree"
