"""Pocket DataComp: a pool whose truth is what was planted, equal and proportional compute, one real comparison."""

import fcntl
import io
import json
import math
import statistics
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from winnow.jobs.filter_network.precision import PRECISION
from winnow.jobs.filter_network.training import RECIPE, Recipe
from winnow.jobs.lab.datacomp import compare as compare_module
from winnow.jobs.lab.datacomp import damage, demo, plan
from winnow.jobs.lab.datacomp.compare import run_comparison
from winnow.jobs.lab.datacomp.labelled import LabelledSet, Pictures, top1
from winnow.jobs.lab.datacomp.noise import Noise, build, class_sizes, plan_samples, planted_counts
from winnow.jobs.lab.datacomp.plan import Comparison, Outcome, Trainings, load_comparison, outcomes
from winnow.jobs.lab.datacomp.table import cells, markdown, outcome_rows, table
from winnow.jobs.lab.datacomp.trainings import FilteredPool, FinishedTraining, fit_of, fits, samples_of, samples_seen
from winnow.pipeline.artifact import write_json
from winnow.pipeline.errors import DataError, JobError, ModelError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.lifeline import WATCHED

JOBS = Path(plan.__file__).parent
TINY = JOBS / "tiny.json"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    demo.render_demo(folder, 400, 60)
    return folder


@pytest.fixture(scope="module")
def pictures(rendered: Path) -> Pictures:
    return LabelledSet(f"{rendered}/train.parquet", f"{rendered}/classnames.txt").read()


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """Suffix to bytes of each key, of all tars."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                key, _, suffix = entry.name.partition(".")
                file = tar.extractfile(entry)
                assert file is not None
                found.setdefault(key, {})[suffix] = file.read()
    return found


def test_the_pool_is_what_its_truth_says(pictures: Pictures, tmp_path: Path) -> None:
    noise = Noise(samples_per_shard=64)
    truth = build(pictures, noise, tmp_path)
    pool, names = members(tmp_path / "pool"), pictures.classnames
    rows_of = {row["uid"]: row for row in truth.to_pylist()}
    by_image = {image: int(label) for image, label in zip(pictures.images, pictures.labels, strict=True)}
    assert set(pool) == {row["key"] for row in rows_of.values()}
    assert len(rows_of) == truth.num_rows, "every uid once"
    for row in rows_of.values():
        image, caption = pool[row["key"]]["jpg"], pool[row["key"]]["txt"].decode()
        assert json.loads(pool[row["key"]]["json"])["uid"] == row["uid"]
        named = {name for name in names if name in caption.split()}
        if row["what"] == "uninformative":
            assert not named
        elif row["what"] == "irrelevant":
            assert image not in by_image
            assert row["label"] == -1
        else:
            right = {names[row["label"]]}
            assert named.isdisjoint(right) if row["what"] == "wrong_caption" else named == right
        if row["what"] in ("clean", "wrong_caption", "uninformative"):
            assert by_image[image] == row["label"]
        if row["source"] is not None:
            source = rows_of[row["source"]]
            assert source["what"] == "clean"
            same = pool[source["key"]]["jpg"] == image
            assert same if row["what"] == "exact_duplicate" else not same
    sizes = json.loads((tmp_path / "pool" / "sizes.json").read_text())
    assert sum(sizes.values()) == truth.num_rows
    assert max(sizes.values()) == 64


def test_the_clean_set_is_not_in_the_pool(pictures: Pictures, tmp_path: Path) -> None:
    noise = Noise(held_out=0.25, captions=3)
    build(pictures, noise, tmp_path)
    clean = members(tmp_path / "clean")
    held_out = pq.read_table(tmp_path / "validation.parquet")
    shown = Counter(sample["jpg"] for sample in clean.values())
    assert set(shown) == set(held_out["image"].to_pylist())
    assert set(shown.values()) == {3}
    assert len({(sample["jpg"], sample["txt"]) for sample in clean.values()}) == len(clean), "another template each"
    assert set(shown).isdisjoint(sample["jpg"] for sample in members(tmp_path / "pool").values())
    labels = dict(zip(pictures.images, pictures.labels, strict=True))
    assert all(pictures.classnames[labels[s["jpg"]]] in s["txt"].decode().split() for s in clean.values())
    for label in range(len(pictures.classnames)):
        assert held_out["label"].to_pylist().count(label) == round(0.25 * (pictures.labels == label).sum())


def test_the_same_seed_makes_the_same_bytes(pictures: Pictures, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(pictures, Noise(seed=seed), tmp_path / folder)
    found = [[path.read_bytes() for path in sorted((tmp_path / f).rglob("*.tar"))] for f in ("a", "b", "c")]
    assert found[0] == found[1]
    assert found[0] != found[2]


@given(st.tuples(*[st.floats(0, 0.19) for _ in range(5)]), st.integers(200, 10**6), st.floats(0, 2), st.integers(2, 50))
def test_shares_are_kept_and_sizes_fall(shares: tuple[float, ...], shown: int, zipf: float, classes: int) -> None:
    noise = Noise(*shares, zipf=zipf)
    counts = planted_counts(noise, shown)
    pool = sum(counts.values())
    assert counts["clean"] + counts["wrong_caption"] + counts["uninformative"] == shown
    for what, share in noise.shares().items():
        assert abs(counts[what] / pool - share) < 6 / shown, what
    sizes = sorted(class_sizes(classes, noise), reverse=True)
    np.testing.assert_allclose(sizes, [rank**-zipf for rank in range(1, classes + 1)])


def test_few_pictures_are_copied_and_one_of_them_often() -> None:
    labels = np.arange(4000) % 10
    pictures = Pictures(tuple(b"" for _ in labels), labels, tuple("abcdefghij"))
    plans = plan_samples(pictures, np.arange(4000), Noise(zipf=0.0))
    copies = Counter(one.source for one in plans if one.what == "near_duplicate")
    clean = sum(one.what == "clean" for one in plans)
    assert len(copies) < 0.1 * clean
    assert max(copies.values()) > 10 * statistics.median(copies.values())


@pytest.mark.parametrize("how", damage.NEAR_CHANGES)
def test_a_near_copy_is_another_file_of_nearly_the_same_picture(pictures: Pictures, how: str) -> None:
    image = pictures.images[0]
    copy = damage.near_copy(image, how, Random(3))
    before, after = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) for data in (image, copy))
    assert copy != image
    assert before.shape == after.shape
    other = np.asarray(Image.open(io.BytesIO(pictures.images[1])).convert("RGB"), float)
    assert 0 < np.abs(before - after).mean() < 0.5 * np.abs(before - other).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wrong": 0.9, "near": 0.2}, "leave something clean"),
        ({"held_out": 0.0}, "0 < held_out < 1"),
        ({"captions": 99}, "captions from 1 to"),
        ({"zipf": -1.0}, "0 <= zipf <= 3"),
    ],
)
def test_noise_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        Noise(**change)


def test_a_label_that_is_no_class_is_refused(rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("ball\nbox\n")
    with pytest.raises(DataError, match="a label must be a class name or a number below 2"):
        LabelledSet(f"{rendered}/train.parquet", str(tmp_path / "two.txt")).read()


def values(rendered: Path, folder: Path) -> dict[str, Any]:
    """A comparison that trains for seconds."""
    recipe = {"model": str(TINY), "epochs": 1, "batch_size": 32, "workers": 0, "threads": 1}
    return {
        "folder": str(folder),
        "labelled": {"images": f"{rendered}/train.parquet", "classnames": f"{rendered}/classnames.txt"},
        "evaluation": {"images": f"{rendered}/test.parquet", "classnames": f"{rendered}/classnames.txt"},
        "noise": {"held_out": 0.3, "captions": 1, "samples_per_shard": 200},
        "filter": {**recipe, "warmup_steps": 1},
        "policies": [
            {"name": "no cut"},
            {"name": "similarity", "fractions": [0.5], "policy": [{"similarity": {"by": "filter"}}]},
        ],
        "train": {"samples": 128, "seeds": [0], "regimes": ["proportional"], "side_by_side": 2, "recipe": recipe},
    }


def written(path: Path, found: Mapping[str, Any]) -> str:
    path.write_text(yaml.safe_dump(dict(found)))
    return str(path)


def test_a_whole_comparison_and_the_same_command_again(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = load_comparison(written(tmp_path / "c.yaml", values(rendered, tmp_path / "out")))
    asked: list[tuple[list[bool], bool, Recipe]] = []

    def untrained(shards: str, out: Path, recipe: Recipe, _say: Callable[[str], None]) -> Path:
        asked.append(([Path(url).exists() for url in braceexpand(shards)], out.parent == tmp_path / "out", recipe))
        return Path("random")  # weights; training a filter network is seen in test_train_filter.py

    monkeypatch.setattr(compare_module, "run_training", untrained)
    write_json(str(tmp_path / "out" / "trainings" / PRECISION), {"precision": "amp_bf16"})  # of another machine
    said: list[str] = []
    made = run_comparison(comparison, LocalExecutor(1), said.append)
    assert asked == [([True], True, comparison.filter)]
    whole, half = made
    assert [str(row.kept.outcome) for row in made] == ["no cut", "similarity 0.5"]
    assert half.kept.kept == whole.kept.kept // 2
    assert (whole.seen, half.seen) == (128, 64)
    truth = pq.read_table(next((tmp_path / "out").glob("pool-*/truth.parquet")))
    assert whole.kept.kept == truth.num_rows
    right = sum(what in ("clean", "near_duplicate", "exact_duplicate") for what in truth["what"].to_pylist())
    assert whole.right == pytest.approx(right / truth.num_rows)
    assert whole.gain is None
    assert half.gain == pytest.approx(half.mean - whole.mean)
    logs = list((tmp_path / "out" / "trainings").glob("*/train.log"))
    assert len(logs) == 2
    recipes = [json.loads(log.with_name(RECIPE).read_text()) for log in logs]
    assert [recipe["precision"] for recipe in recipes] == ["amp_bf16", "amp_bf16"]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["rows"][1]["top1"] == list(half.top1)

    times = {log: log.stat().st_mtime_ns for log in logs}
    again = run_comparison(comparison, LocalExecutor(1), said.append)
    assert [row.record() for row in again] == [row.record() for row in made]
    assert {log: log.stat().st_mtime_ns for log in logs} == times
    assert "2 trainings, 2 done before, 2 at a time" in said

    images = rendered / "test.parquet"
    before = images.read_bytes()
    try:
        shown = pq.read_table(images)
        pq.write_table(shown.take(list(range(shown.num_rows))[::-1]), images)
        with pytest.raises(
            ModelError, match=r"a folder must hold accuracies on one set of images, but in .* pictures was"
        ):
            run_comparison(comparison, LocalExecutor(1), said.append)
    finally:
        images.write_bytes(before)


def test_a_training_ends_its_trainer_when_it_is_told_to_or_its_starter_is_gone(tmp_path: Path) -> None:
    recipe = json.dumps({"model": str(TINY), "samples_per_epoch": 10, "precision": "fp32"})
    words = ["pipe:sleep 60", str(tmp_path / "t"), recipe, WATCHED]
    with subprocess.Popen(
        [sys.executable, "-m", "winnow.jobs.lab.datacomp.fit", *words], stdin=subprocess.PIPE
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text():
            assert process.poll() is None
            time.sleep(0.05)
        assert process.stdin is not None
        process.stdin.close()  # as the kernel does; it sends itself the SIGTERM that an interrupted comparison sends
        assert process.wait(30) == 130
    with (tmp_path / "t" / "train.log").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the trainer would hold it


def kept(name: str, count: int, fraction: float | None = None) -> FilteredPool:
    cuts = () if name == "no cut" else ({"random": {}},)
    return FilteredPool(Outcome(name, fraction, cuts), f"{name}.tar", f"shards-{name}-{fraction}", count)


ASKED = Trainings(recipe=Recipe(model="m", batch_size=100, epochs=2), samples=10_000, seeds=(3, 4))


def test_on_the_whole_pool_both_regimes_are_one_training() -> None:
    wanted = fits([kept("no cut", 500), kept("random", 100, 0.2)], 500, ASKED)
    found = [(fit.kept.outcome.name, fit.samples, fit.seed) for fit in wanted]
    each = [("no cut", 10_000), ("random", 10_000), ("random", 2_000)]
    assert found == [(name, samples, seed) for seed in (3, 4) for name, samples in each]
    assert len({fit.folder for fit in wanted}) == 6
    assert all(fit.recipe.seed == fit.seed for fit in wanted)
    other = replace(ASKED, recipe=replace(ASKED.recipe, learning_rate=0.5))
    assert {fit.folder for fit in fits([kept("no cut", 500)], 500, other)}.isdisjoint(fit.folder for fit in wanted)


@given(st.integers(1, 5000), st.integers(1, 10**6), st.integers(2, 600), st.integers(1, 9))
def test_pairs_seen_are_those_asked_up_to_a_batch_an_epoch(count: int, samples: int, batch: int, epochs: int) -> None:
    asked = replace(ASKED, samples=samples, recipe=replace(ASKED.recipe, batch_size=batch, epochs=epochs))
    assert samples_of("equal", count, 5000, asked) == samples
    wanted = samples_of("proportional", count, 5000, asked)
    assert abs(wanted - samples * count / 5000) <= 1
    fit = fit_of(kept("random", count), wanted, 0, asked)
    assert wanted <= samples_seen(fit.recipe) < wanted + (batch + 1) * fit.recipe.epochs
    assert fit.recipe.epochs <= epochs
    assert fit.recipe.warmup_steps <= math.ceil(samples_seen(fit.recipe) / batch)


def test_the_table_has_mean_spread_and_the_difference_seed_by_seed() -> None:
    whole, random = kept("no cut", 500), kept("random", 100, 0.2)
    wanted = {(f.kept.outcome.name, f.samples, f.seed): f for f in fits([whole, random], 500, ASKED)}
    reached = {
        ("no cut", 10_000, 3): 0.4,
        ("no cut", 10_000, 4): 0.5,
        ("random", 10_000, 3): 0.3,
        ("random", 10_000, 4): 0.7,
        ("random", 2_000, 4): 0.2,  # seed 3 is not judged yet
    }
    judged = [FinishedTraining(wanted[key], value, (value, None)) for key, value in reached.items()]
    made = outcome_rows([whole, random], whole, judged, {"no-cut": 0.6}, ASKED)
    assert [(str(row.kept.outcome), row.regime, row.seen) for row in made] == [
        ("no cut", "equal", 10_000),
        ("random 0.2", "equal", 10_000),
        ("random 0.2", "proportional", 2_000),
    ]
    equal, proportional = made[1:]
    assert equal.mean == pytest.approx(0.5)
    assert equal.spread == pytest.approx(np.std([0.3, 0.7], ddof=1))
    assert equal.gain == pytest.approx(0.05)
    assert equal.by_class == (pytest.approx(0.5), None)
    assert proportional.gain == pytest.approx(0.2 - 0.5)
    assert cells(equal) == ("random 0.2", "20.0%", "100", "–", "equal", "10,000", "50.0", "28.3", "+5.0")
    assert cells(made[0])[3:5] == ("60.0%", "whole")
    assert table(made).row_count == 3
    assert markdown(made).splitlines()[-1].endswith("| 2,000 | 20.0 | 0.0 | -30.0 |")


def test_top1_is_of_images_not_of_classes() -> None:
    assert top1([1.0, 0.0, None], np.array([0, 0, 0, 1])) == 0.75


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_comparison_of_the_project_is_read(path: Path) -> None:
    found = load_comparison(str(path))
    assert path.read_text().startswith("#"), "a comparison opens with its promise"
    encoders = {"filter": {"model": "ViT-B-32", "pretrained": "openai"}}
    for outcome in outcomes(found):
        job = plan.outcome_job(found, outcome, {"shards": "a.tar"}, encoders)
        if outcome.fraction is not None:
            assert job.policy[-1].fraction == outcome.fraction  # type: ignore[attr-defined]  # every last cut has one
            assert job.policy[-1].of == "pool"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"polices": []}, "polices: Unexpected keyword argument"),
        ({"labelled": None}, "must have either `labelled`"),
        ({"filter": None}, "must come with filter and without clean"),
        ({"embeddings": {"filter": {}}}, "an encoder must not be called filter"),
        ({"policies": [{"name": "a"}, {"name": "b"}]}, "one policy must have no cut"),
        ({"policies": [{"name": "a"}, {"name": "a"}]}, "policies must have different names"),
        (
            {"policies": [{"name": "a", "fractions": [0.1]}]},
            "must have a last cut that takes them, but 'a' ends with {}",
        ),
        ({"policies": [{"name": "a", "fractions": [0.1], "policy": [{"random": 3}]}]}, "'a' ends with {'random': 3}"),
        ({"folder": "s3://bucket/x"}, "reads and writes there, got s3://bucket/x"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(
    rendered: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    found = {key: value for key, value in {**values(rendered, tmp_path), **change}.items() if value is not None}
    with pytest.raises(JobError, match=message):
        load_comparison(written(tmp_path / "c.yaml", found))


def test_a_pool_of_ones_own_needs_no_filter_network(rendered: Path, tmp_path: Path) -> None:
    found = values(rendered, tmp_path)
    own = {key: found[key] for key in ("folder", "evaluation", "train")} | {
        "pool": {"shards": "mine/*.tar"},
        "embeddings": {"filter": {"model": "ViT-B-32", "pretrained": "openai"}},
        "policies": [{"name": "no cut"}],
    }
    comparison = load_comparison(written(tmp_path / "c.yaml", own))
    assert isinstance(comparison, Comparison)
    [outcome] = outcomes(comparison)
    assert plan.outcome_job(comparison, outcome, comparison.pool or {}, comparison.embeddings).policy == ()
