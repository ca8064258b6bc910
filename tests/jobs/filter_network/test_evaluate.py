"""Judging: rank statistics against pairs counted one by one, a model against brute force, and both commands."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs.test_cli import called
from tests.pools import Samples, jpeg, members, pair, tiny_clip, write_tar, write_vectors
from winnow.jobs.filter_network import evaluate, evaluate_command
from winnow.jobs.filter_network.evaluate import Truth, filter_quality, precision_at, retrieval, roc_auc, zero_shot
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.pipeline.errors import DataError, JobError, StorageError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.encoders.zero_shot import Judge

SCORES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30)


def drawn(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray([score for score, _ in rows], float), np.asarray([good for _, good in rows])


@given(SCORES)
def test_auc_counts_pairs(rows: list[tuple[int, bool]]) -> None:
    score, good = drawn(rows)
    pairs = [(a > b) + (a == b) / 2 for a in score[good] for b in score[~good]]
    np.testing.assert_allclose(roc_auc(score, good), np.mean(pairs) if pairs else np.nan)


@given(SCORES, st.randoms(use_true_random=False))
def test_auc_knows_order_alone(rows: list[tuple[int, bool]], random: Any) -> None:
    score, good = drawn(rows)
    before = roc_auc(score, good)
    np.testing.assert_allclose(roc_auc(np.exp(score) - 3, good), before)  # any rising map
    np.testing.assert_allclose(roc_auc(-score, good), 1 - before)
    random.shuffle(rows)
    np.testing.assert_allclose(roc_auc(*drawn(rows)), before)


@given(SCORES, st.floats(0, 1))
def test_precision_is_the_mean_over_ways_to_break_ties(rows: list[tuple[int, bool]], fraction: float) -> None:
    score, good = drawn(rows)
    kept = int(fraction * len(score))
    found = precision_at(score, good, fraction)
    if not kept:
        assert np.isnan(found)
        return
    orders = [np.lexsort((tie, -score)) for tie in (np.where(good, 0, 1), np.where(good, 1, 0))]
    best, worst = (good[order[:kept]].mean() for order in orders)
    assert worst - 1e-12 <= found <= best + 1e-12
    if len(score) <= 6:
        ways = [np.lexsort((np.asarray(tie), -score)) for tie in itertools.permutations(range(len(score)))]
        np.testing.assert_allclose(found, np.mean([good[order[:kept]].mean() for order in ways]))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Samples, Path]:
    """A finished job over 40 samples whose vectors are there, and their truth, in another order."""
    folder = tmp_path_factory.mktemp("scored")
    samples = Samples.drawn(40, seed=3)
    shards = write_vectors(str(folder / "pool"), samples, 3)
    pool = {"shards": list(shards), "format": "vectors", "image": "image", "text": "text", "encoder": "clip"}
    policy = [{"random": {"fraction": 0.5}}, {"similarity": {"by": "clip", "fraction": 0.5}}]
    run_job(
        parse({"name": "mine", "store": str(folder / "store"), "pool": pool, "policy": policy}),
        LocalExecutor(1),
        lambda _: None,
    )
    kinds = ["clean", "mismatched", "clean", "useless"] * 10
    order = np.random.default_rng(0).permutation(40)
    truth = pa.table({"uid": [samples.uid[i] for i in order], "what": [kinds[i] for i in order]})
    pq.write_table(truth, folder / "truth.parquet")
    return str(folder / "store"), samples, folder / "truth.parquet"


def test_a_score_is_judged_by_the_truth(scored: tuple[str, Samples, Path]) -> None:
    store, samples, path = scored
    truth = Truth.read(str(path), "what", ["clean"], ["mismatched"])
    found = filter_quality(store, "mine", None, truth)
    score = samples.cosine.astype(np.float32).astype(float)
    kinds = np.asarray(["clean", "mismatched", "clean", "useless"] * 10)
    used = kinds != "useless"
    good = kinds[used] == "clean"
    assert (found["score"], found["good"], found["bad"], found["unread"]) == ("clip.similarity", 20, 10, 0)
    np.testing.assert_allclose(found["auc"], roc_auc(score[used], good))
    assert found["precision_at"]["0.3"] == good[np.argsort(-score[used])[:9]].mean()  # type: ignore[index]
    everything = filter_quality(store, "mine", None, Truth.read(str(path), "what", ["clean"], []))
    assert everything["bad"] == 20
    against = everything["auc_against"]
    np.testing.assert_allclose(against["mismatched"], found["auc"])  # type: ignore[index]
    np.testing.assert_allclose(np.mean([*against.values()]), everything["auc"])  # type: ignore[attr-defined]


def test_a_cuts_value_judges_what_reached_it(scored: tuple[str, Samples, Path]) -> None:
    store, _, path = scored
    found = filter_quality(store, "mine", "similarity.cosine", Truth.read(str(path), "what", ["clean"], []))
    assert found["unread"] == 20
    assert found["good"] + found["bad"] == 20  # type: ignore[operator]


def test_the_filter_command(
    scored: tuple[str, Samples, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _, path = scored
    out = path.with_name("quality.json")
    words = ["--truth", str(path), "--bad", "mismatched", "--json", str(out)]
    assert called(monkeypatch, "evaluate", "filter", store, "mine", *words) == 0
    quality = json.loads(out.read_text())
    assert quality == filter_quality(store, "mine", None, Truth.read(str(path), "what", ["clean"], ["mismatched"]))
    assert f"{quality['auc']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "score", "message"),
    [
        ("other", None, "a job must have finished before it is read, but .* has none called 'other'"),
        (
            "mine",
            "clip.cosine",
            "clip.cosine must be a column of the manifest or the samples of mine, or of clip.similarity",
        ),
    ],
)
def test_what_there_is_not_is_said(
    scored: tuple[str, Samples, Path], name: str, score: str | None, message: str
) -> None:
    store, _, path = scored
    with pytest.raises(JobError, match=message):
        filter_quality(store, name, score, Truth.read(str(path), "what", ["clean"], []))


def test_a_truth_has_both_sides_of_this_pool(scored: tuple[str, Samples, Path], tmp_path: Path) -> None:
    store, _, path = scored
    with pytest.raises(JobError, match="must have columns kind, but it has uid, what"):
        Truth.read(str(path), "kind", ["clean"], [])
    with pytest.raises(JobError, match=r"must name good samples \(fine\) and bad ones \(all others\) under what"):
        Truth.read(str(path), "what", ["fine"], [])
    pq.write_table(pa.table({"uid": ["00" * 16, "11" * 16], "what": ["clean", "bad"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="must be of one pool, but they have no uid in common"):
        filter_quality(store, "mine", None, Truth.read(str(tmp_path / "other.parquet"), "what", ["clean"], []))
    uids = [scored[1].uid[0], "11" * 16]
    pq.write_table(pa.table({"uid": uids, "what": ["bad", "clean"]}), tmp_path / "half.parquet")
    with pytest.raises(DataError, match="but of 1 with this score 0 are good"):
        filter_quality(store, "mine", None, Truth.read(str(tmp_path / "half.parquet"), "what", ["clean"], []))


def test_a_fraction_that_keeps_nothing_has_no_precision(scored: tuple[str, Samples, Path], tmp_path: Path) -> None:
    store, samples, _ = scored
    pq.write_table(pa.table({"uid": samples.uid[:4], "what": ["clean", "[/x]"] * 2}), tmp_path / "four.parquet")
    found = filter_quality(store, "mine", None, Truth.read(str(tmp_path / "four.parquet"), "what", ["clean"], []))
    assert list(found["precision_at"]) == ["0.3", "0.5", "0.7"]  # type: ignore[call-overload]
    json.dumps(found, allow_nan=False)
    evaluate_command._show(found, None)  # a kind is no markup


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(tiny_clip(tmp_path_factory.mktemp("judge")), "cpu", batch_size=4)


def test_zero_shot_is_the_nearest_class(judge: Judge, tmp_path: Path) -> None:
    names, templates = ["red", "green", "blue fish"], ("a {}.", "the {}")
    (tmp_path / "names.txt").write_text("red\ngreen\nblue_fish\n")
    images, labels = [jpeg(n) for n in range(10)], [n % 3 for n in range(10)]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "a.parquet")
    tars = [
        (f"{n}", {"jpg": images[n], "cls": (names[labels[n]] if n % 2 else f"{labels[n]}").encode()}) for n in range(10)
    ]
    write_tar(tmp_path / "a.tar", members(tars))
    vectors = np.concatenate(list(judge.images(images)))
    prompts = np.stack([judge.texts([t.format(name) for t in templates]).mean(0) for name in names])
    guess = np.argmax(vectors @ (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).T, axis=1)
    right = guess == np.asarray(labels)
    classes = str(tmp_path / "names.txt")
    for name in ("a.parquet", "a.tar"):
        found = zero_shot(judge, [str(tmp_path / name)], classes, templates, None, "image")
        assert (found["images"], found["classes"], found["top5"]) == (10, 3, 1.0)
        assert found["top1"] == right.mean()
        np.testing.assert_allclose(
            found["mean_per_class"], np.mean([right[np.arange(10) % 3 == c].mean() for c in range(3)])
        )


def test_retrieval_counts_what_stands_before_the_own(judge: Judge, tmp_path: Path) -> None:
    captions = [["a dog", "an old dog"], ["a cat"], ["birds", "two birds", "blue birds"], ["the sea"]]
    samples = [(f"{n}", pair(n, "x", captions=own)) for n, own in enumerate(captions)]
    write_tar(tmp_path / "a.tar", members(samples))
    found = retrieval(judge, [str(tmp_path / "a.tar")], "json:captions", (1, 2))
    vectors = np.concatenate(list(judge.images([jpeg(n) for n in range(4)])))
    texts = [text for own in captions for text in own]
    owner = np.asarray([n for n, own in enumerate(captions) for _ in own])
    scores = vectors @ judge.texts(texts).T
    assert (found["pictures"], found["captions"]) == (4, 7)
    for k in (1, 2):
        to_text = [set(owner[np.argsort(-scores[n])[:k]]) & {n} for n in range(4)]
        to_image = [owner[m] in np.argsort(-scores[:, m])[:k] for m in range(7)]
        assert found[f"image_to_text_recall@{k}"] == np.mean([bool(hit) for hit in to_text])
        assert found[f"text_to_image_recall@{k}"] == np.mean(to_image)


def test_a_model_that_gives_all_one_vector_finds_nothing() -> None:
    same = np.ones((4, 3), np.float32)
    assert evaluate._best(same, same, lambda rows: rows[:, None] == np.arange(4)).tolist() == [3, 3, 3, 3]


def test_a_set_to_judge_by_is_whole(judge: Judge, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", members([("a", pair(1, "x")), ("b", {"txt": b"no image"})]))
    with pytest.raises(StorageError, match="a test set must be complete, but b: a sample must have a member"):
        retrieval(judge, [str(tmp_path / "a.tar")], "txt")


def test_a_set_to_judge_by_is_not_empty(judge: Judge, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [])
    with pytest.raises(DataError, match=r"a test set must have pictures with captions, but .*a\.tar have none"):
        retrieval(judge, [str(tmp_path / "a.tar")], "txt")
    (tmp_path / "names.txt").write_text("red\n")
    with pytest.raises(DataError, match=r"a test set must have images, but .*a\.tar have none"):
        zero_shot(judge, [str(tmp_path / "a.tar")], str(tmp_path / "names.txt"), ["a {}"], None, "image")


def test_the_model_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = tiny_clip(tmp_path)
    write_tar(tmp_path / "a.tar", members([(f"{n}", pair(n, f"text {n}")) for n in range(3)]))
    words = ["evaluate", "model", "--model", encoder.model, "--pretrained", "random", "--device", "cpu"]
    out = tmp_path / "found.json"
    assert called(monkeypatch, *words, "--pairs", str(tmp_path / "a.tar"), "--json", str(out)) == 0
    assert json.loads(out.read_text())["pictures"] == 3
    assert called(monkeypatch, *words) == 2
    assert "needs either --images with --classnames, or --pairs" in capsys.readouterr().err
