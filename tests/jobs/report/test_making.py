"""Pages of finished jobs: numbers are the job's own, captions stay text, nothing is loaded, and no pool is needed."""

import base64
import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.jobs.report.pages import HOSTILE, Page, done, made
from tests.jobs.test_cli import called
from tests.jobs.verify.test_verify import DATACOMP, every_cut, near_sets
from tests.outside_cut import install
from tests.pools import Samples, unit, write_datacomp, write_parquet, write_vectors
from winnow.jobs.report import making
from winnow.jobs.verify.finished import read_finished
from winnow.pipeline.errors import JobError
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.kinds import CUTS

LARGEST = 15_000_000
KNOWN = """
    html head meta title link style body a div nav p ul li main header h1 h2 h3 h4 dl dt dd section table caption thead
    tbody tr th td i b span figure figcaption fieldset legend label input form output button img details summary code
    pre script
"""


@pytest.fixture
def job(hostile: dict[str, Any]) -> dict[str, Any]:
    return hostile


@pytest.fixture(scope="module")
def page(hostile: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return made(hostile, tmp_path_factory.mktemp("page") / "index.html")


def test_the_funnel_is_the_job_s_own(page: Page, job: dict[str, Any]) -> None:
    counts, left = job["counts"], job["counts"]["pool"]
    assert counts["pool"] == 72
    assert counts["rejected"] == {"image-decode": 3}
    assert page.row("pool")[1] == page.row("pool")[3] == "72"
    lost = {"rejected: image-decode": 3, **counts["dropped"]}
    assert all(lost.values())
    for name, count in lost.items():
        left -= count
        assert page.row(name)[1:4] == [f"−{count}", f"{100 * count / 72:.1f} %", str(left)]
    assert page.row("kept")[1:4] == [str(left), f"{100 * left / 72:.1f} %", str(left)]
    assert left == counts["kept"]


def test_histograms_and_concepts_add_up(page: Page, job: dict[str, Any]) -> None:
    dropped, data = job["counts"]["dropped"], page.data
    kept = {"density": job["counts"]["kept"], "similarity": job["counts"]["kept"] + dropped["density"], "duplicates": 0}
    assert set(data["histograms"]) == set(kept)
    for name, histogram in data["histograms"].items():
        assert sum(histogram["dropped"]) == dropped[name]
        assert sum(histogram["kept"]) == kept[name]
        assert histogram["low"] < histogram["high"]
    similarity = data["histograms"]["similarity"]
    width = (similarity["high"] - similarity["low"]) / len(similarity["kept"])
    first = next(i for i, n in enumerate(similarity["kept"]) if n)
    assert similarity["threshold"] == pytest.approx(similarity["low"] + first * width, abs=width)
    assert max(i for i, n in enumerate(similarity["dropped"]) if n) <= first
    table = read_finished(job["store"], "planted", RowSample(None))[0].artifacts["density"].meta("density.parquet")
    scatter = data["scatters"]["density"]
    assert sum(scatter["size"]) == kept["similarity"]
    assert Path(table).exists()
    found = {row[1] for row in page.rows if row[0] in scatter["name"]}
    assert found == {str(size) for size in scatter["size"]}
    slider = data["sliders"]["similarity"]
    assert (slider["came"], slider["kept"]) == (kept["similarity"] + dropped["similarity"], kept["similarity"])
    assert slider["path"] == "policy.2.similarity.fraction"
    assert sum(data["sliders"]["density"]["size"]) == kept["similarity"]


def test_captions_stay_text(page: Page) -> None:
    for caption in HOSTILE:
        plain = re.sub("[\u2028\u202e]", " ", caption)  # what ends a line or turns the text around
        assert f"{plain} words of picture" in page.text
    assert {tag.name for tag in page.tags} <= set(KNOWN.split())
    assert [n for tag in page.tags for n in tag.attributes if n.startswith("on")] == []
    assert "0009<b>" in [row[1] for row in page.rows if len(row) == 3]
    assert "49 words" not in page.text
    assert "\u2028" not in page.raw
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", page.text)


def test_nothing_is_loaded_and_two_scripts_may_run(page: Page) -> None:
    for tag in page.tags:
        for name in ("src", "srcset", "poster", "data", "action", "background", "xlink:href"):
            assert tag.attributes.get(name, "data:image/webp;base64,").startswith("data:image/webp;base64,")
        assert tag.attributes.get("href", "#").startswith(("#", "data:,"))
        assert "url(" not in tag.attributes.get("style", "")
    [style] = re.findall("<style>(.*?)</style>", page.raw, re.DOTALL)
    assert not re.search(r"url\(|@import|https?:", style)
    [policy] = [tag.attributes["content"] for tag in page.named("meta") if "http-equiv" in tag.attributes]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    run = [text for attributes, text in page.scripts if not attributes]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run]
    assert rules["script-src"].split() == hashes
    assert len(page.scripts) == 3
    assert len(page.raw.encode()) < LARGEST


def test_pictures_stand_beside_their_captions(page: Page, job: dict[str, Any]) -> None:
    pictures = page.named("img")
    assert len(pictures) > 40
    assert all(base64.b64decode(tag.attributes["src"].partition(",")[2])[8:12] == b"WEBP" for tag in pictures)
    assert len(page.named("div", **{"class": "pair"})) == job["counts"]["dropped"]["duplicates"] > 5
    assert "breaks min_words" in page.text


def test_the_same_page_every_time_and_by_any_number_of_workers(page: Page, job: dict[str, Any], tmp_path: Path) -> None:
    assert made(job, tmp_path / "again.html", workers=1).raw == page.raw


def test_of_many_shards_some_are_read_and_the_counts_stay_exact(
    page: Page, job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_SHARDS", 2)
    monkeypatch.setattr(making, "_PICTURED_SHARDS", 1)
    sampled = made(job, tmp_path / "index.html")
    assert "from 2 of 3 shards" in " ".join(sampled.text.split())
    assert "samples shown are from 1 of these shards" in sampled.text
    assert [sampled.row(name) for name in ("pool", "density", "kept")] == [
        page.row(n) for n in ("pool", "density", "kept")
    ]
    assert sampled.data["scatters"]["density"]["size"] == page.data["scatters"]["density"]["size"]
    some, every = (sum(found.data["histograms"]["similarity"]["kept"]) for found in (sampled, page))
    assert 0 < some < every
    shown = {tag.attributes["alt"].split()[-1] for tag in sampled.named("img")}
    assert {int(key[:4]) // 24 for key in shown} == {0}


def test_without_its_pool_a_page_has_all_but_the_pictures(page: Page, job: dict[str, Any], tmp_path: Path) -> None:
    store = shutil.copytree(job["store"], tmp_path / "store")
    pool = Path(job["store"]).parent / "pool"
    pool.rename(pool.with_name("away"))
    try:
        gone = made({**job, "store": str(store)}, tmp_path / "index.html")
    finally:
        pool.with_name("away").rename(pool)
    assert gone.data == page.data
    assert not gone.named("img")
    assert "the pool is not readable any more" in gone.text


def test_a_shard_that_changed_shows_no_picture_of_another_sample(job: dict[str, Any], tmp_path: Path) -> None:
    pool = Path(job["store"]).parent / "pool"
    whole = {path: path.read_bytes() for path in pool.iterdir()}
    try:
        for path, content in whole.items():
            path.write_bytes(content[:5000] + bytes(len(content)))
        changed = made(job, tmp_path / "index.html")
    finally:
        for path, content in whole.items():
            path.write_bytes(content)
    assert not changed.named("img")
    assert "the shard has changed since" in changed.text


def vectors_job(folder: Path, **changes: Any) -> dict[str, Any]:
    """90 precomputed pairs in three shards, two concepts of which have words of their own."""
    rng = np.random.default_rng(3)
    centre = np.repeat(np.eye(3, 16), 30, axis=0)
    image = centre + 0.1 * rng.standard_normal(centre.shape)
    image = (image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float16)
    words = ["a red boat on <i>water</i>", "some boat", "a dog on grass", "the dog again", "a thing", "an object"]
    captions = [f"{words[2 * (n // 30) + n % 2]} {n}" for n in range(90)]
    samples = replace(Samples.drawn(90), image=image, caption=captions)
    order = rng.permutation(90).tolist()
    return {
        "name": "vectors",
        "store": str(folder / "store"),
        "pool": {
            "shards": list(write_vectors(str(folder / "pool"), samples.take(order), 3)),
            "format": "vectors",
            "text": "text",
            "encoder": "clip",
        },
        "policy": [
            {"similarity": {"by": "clip", "fraction": 0.9}},
            {"density": {"by": "clip", "fraction": 0.5, "clusters": 3, "seed": 2}},
        ],
        **changes,
    }


def test_a_pool_of_vectors_has_captions_and_no_pictures(tmp_path: Path) -> None:
    values = vectors_job(tmp_path)
    assert done(values)["kept"] == 40
    page = made(values, tmp_path / "index.html")
    assert not page.named("img")
    assert "a red boat on <i>water</i>" in page.text
    assert "has vectors and captions but no images" in page.text
    names = page.data["scatters"]["density"]["name"]
    assert sum("boat" in name for name in names) == sum("dog" in name for name in names) == 1
    assert sum(page.data["scatters"]["density"]["size"]) == 81


@pytest.mark.parametrize("fraction", [0.5, 0.02])
def test_an_infinite_score_is_in_no_histogram(tmp_path: Path, fraction: float) -> None:
    values = vectors_job(tmp_path)
    score = pa.array([np.inf, -np.inf, *range(88)], pa.float32())
    write_parquet(str(tmp_path / "mine.parquet"), pa.table({"uid": Samples.drawn(90).uid, "mine": score}))
    score_cut = {"score": {"from": f"{tmp_path}/mine.parquet", "column": "mine", "fraction": fraction}}
    assert done({**values, "policy": [score_cut]})["kept"] == int(90 * fraction)
    page = made(values, tmp_path / "index.html")
    histogram = page.data["histograms"]["score"]
    assert (histogram["low"], histogram["high"]) == (0, 87)
    assert sum(histogram["kept"] + histogram["dropped"]) == 88
    assert (histogram["threshold"] is None) == (fraction == 0.02)
    assert set(page.data["sliders"]) == ({"score"} if fraction == 0.5 else set())


def test_two_policies_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = vectors_job(tmp_path)
    other = {**one, "name": "other", "policy": [{"similarity": {"by": "clip", "fraction": 0.5}}]}
    done(one), done(other)
    page = made(one, tmp_path / "index.html", "other")
    first, second = (
        np.load(read_finished(one["store"], name, RowSample(None))[0].manifest.meta("uids.npy"), allow_pickle=False)
        for name in ("vectors", "other")
    )
    both = len(np.intersect1d(first, second))
    assert 0 < both < len(second) == 45
    assert f"only vectors {len(first) - both}" in page.text
    assert f"both {both}" in page.text
    assert f"only other {len(second) - both}" in page.text
    assert page.row("density", "81")[:5] == ["density", "81", "40", "49.4 %", "–"]
    assert page.row("density", "81")[5] == "not in this policy"
    assert page.row("similarity", "90")[-1] == "fraction 0.9 → 0.5"
    with pytest.raises(JobError, match="compared with another job"):
        made(one, tmp_path / "index.html", "vectors")
    assert called(monkeypatch, "report", one["store"], "vectors", "--compare", "nothing") == 2


def test_the_command_leaves_the_page_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = vectors_job(tmp_path, policy=[])
    done(values)
    assert called(monkeypatch, "report", values["store"], "vectors") == 0
    out, err = capsys.readouterr()
    folder, beside = sorted(Path(values["store"]).glob("report-*"))
    assert out == f"{folder}/index.html\n"
    assert "3 of 3 shards read" in err
    assert (beside / "_done.json").exists()
    assert Page.read((folder / "index.html").read_bytes()).row("kept")[1] == "90"


def test_every_cut_has_its_section(tmp_path: Path) -> None:
    samples = near_sets()
    el2n = np.random.default_rng(1).random(len(samples))
    write_parquet(str(tmp_path / "el2n.parquet"), pa.table({"uid": samples.uid, "el2n": el2n}))
    np.save(tmp_path / "target.npy", unit(30, 16, 9))
    pool = {"shards": list(write_datacomp(tmp_path / "pool", samples, 4)), **DATACOMP}
    values = {"name": "all", "store": str(tmp_path / "store"), "pool": pool, "policy": every_cut(tmp_path)}
    counts = done(values)
    page = made(values, tmp_path / "index.html")
    sections = {tag.attributes["id"].removeprefix("cut-") for tag in page.named("section", **{"class": "cut"})}
    branches = {"any.similarity", "any.density"}
    assert sections == {*counts["dropped"], *branches}
    assert {name.removesuffix("_2") for name in sections - branches} == set(CUTS)
    assert set(page.data["histograms"]) == sections - {"rules", "subset", "epochs"}
    assert set(page.data["sliders"]) == {
        *("similarity", "similarity_2", "negclip", "score", "normsim", "normsim_2", "density", "mix", "random"),
    }
    assert page.data["histograms"]["score"]["lowest"]
    for name, histogram in page.data["histograms"].items():
        assert name in branches or sum(histogram["dropped"]) <= counts["dropped"][name]
        if histogram["threshold"] is not None:
            assert histogram["low"] <= histogram["threshold"] <= histogram["high"]


def test_a_cut_from_outside_has_a_whole_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest caption is "a thing 60", the longest "a red boat on <i>water</i> 10"."""
    install(monkeypatch, tmp_path / "installed")
    values = vectors_job(tmp_path, policy=[{"longest": {"fraction": 0.5}}, {"random": {"fraction": 0.5}}])
    assert done(values)["dropped"] == {"longest": 45, "random": 23}
    page = made(values, tmp_path / "index.html")
    histogram, slider = page.data["histograms"]["longest"], page.data["sliders"]["longest"]
    assert (histogram["label"], histogram["lowest"]) == ("chars", False)
    assert (sum(histogram["kept"]), sum(histogram["dropped"])) == (45, 45)
    assert (histogram["low"], histogram["high"]) == (10, 29)
    assert histogram["low"] < histogram["threshold"] < histogram["high"]
    assert (slider["path"], slider["came"], slider["kept"]) == ("policy.0.longest.fraction", 90, 45)
    sides = [tag.attributes["aria-label"] for tag in page.named("section", **{"class": "side kept"})]
    assert sides == ["just kept", "kept"] * 2
    assert f"chars {histogram['threshold']:.3g}" in page.text
