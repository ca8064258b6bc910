"""NormSim against dense products in float64: exact largest values, stable norms, and the samples near a target stay."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, answers, asked, filtered, normed, unit, write_datacomp
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import explain
from winnow.jobs.why.show import lines_of
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import artifact_of
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.normsim import Normsim
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.kernels import products
from winnow.stages.kernels.products import gram, in_byte_order, largest, lengths, nearest


def oracle(vectors: np.ndarray, target: np.ndarray, p: int | str) -> np.ndarray:
    """‖Z f_i‖_p, float64 (n,)."""
    products = vectors.astype(np.float64) @ target.astype(np.float64).T
    return np.linalg.norm(products, ord=float(p), axis=1)


def written(folder: Path, target: np.ndarray) -> str:
    np.save(folder / "target.npy", target)
    return str(folder / "target.npy")


def cut_of(folder: Path, target: np.ndarray, **options: Any) -> Normsim:
    return Normsim(by="clip", target=written(folder, target), **options)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 60), m=st.integers(1, 90), d=st.integers(2, 300), seed=st.integers(0, 9))
def test_both_norms_are_those_of_dense_products(n: int, m: int, d: int, seed: int) -> None:
    vectors, target = unit(n, d, seed), unit(m, d, seed + 1)
    # sums of float16 products are exact in float64, so the largest are equal to the last bit
    assert largest(vectors, target).tolist() == oracle(vectors, target, "inf").astype(np.float32).tolist()
    assert largest(vectors.astype(np.float32), target).tobytes() == largest(vectors, target).tobytes()
    assert lengths(vectors, gram(target)) == pytest.approx(oracle(vectors, target, 2), rel=1e-6, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), p=st.sampled_from([2, "inf"]), seed=st.integers(0, 3))
def test_a_value_depends_on_its_row_alone(data: st.DataObject, p: int | str, seed: int) -> None:
    vectors, target = unit(70, 96, seed), unit(50, 96, seed + 1)
    known = gram(target) if p == 2 else target
    values = lengths if p == 2 else largest
    whole = values(vectors, known)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, 70), max_size=5))), 70]
    parts = [values(vectors[a:b], known) for a, b in pairwise(cuts)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert values(vectors[::-1].copy(), known)[::-1].tobytes() == whole.tobytes()


@pytest.mark.parametrize("block", [1, 3, 64])
def test_blocks_change_no_bit(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    vectors, target = unit(40, 32, 1), unit(130, 32, 2)
    expected = largest(vectors, target), lengths(vectors, gram(target))
    rows = nearest(vectors, target)[1]
    for name in ("_ROWS", "_TARGETS", "_PAIRS", "_GRAM_ROWS"):
        monkeypatch.setattr(products, name, block)
    assert largest(vectors, target).tobytes() == expected[0].tobytes()
    assert lengths(vectors, gram(target)).tobytes() == expected[1].tobytes()
    assert nearest(vectors, target)[1].tolist() == rows.tolist()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 60), m=st.integers(1, 90), seed=st.integers(0, 9))
def test_the_nearest_row_is_the_first_of_the_largest_products(n: int, m: int, seed: int) -> None:
    vectors, target = unit(n, 24, seed), np.concatenate([unit(m, 24, seed + 1)] * 2)
    values, rows = nearest(vectors, target)
    dense = np.abs(vectors.astype(np.float64) @ target.astype(np.float64).T)
    assert values.tobytes() == largest(vectors, target).tobytes()
    assert rows.tolist() == dense.argmax(axis=1).tolist()
    assert (rows < m).all()


def test_the_largest_of_all_but_equal_products_is_found() -> None:
    """Targets that differ by one step of one float16: their products differ by less than float32 sums do."""
    vectors = unit(20, 512, 5)
    target = np.repeat(unit(1, 512, 6), 400, axis=0)
    target[np.arange(400), np.arange(400)] = np.nextafter(target[0, :400], np.float16(1))
    expected = oracle(vectors, target, "inf")
    assert len(set(expected.tolist())) == 20
    assert largest(vectors, target).tolist() == expected.astype(np.float32).tolist()
    proposed = np.abs(vectors.astype(np.float32) @ target.astype(np.float32).T).max(axis=1)
    assert (proposed != expected.astype(np.float32)).any(), "float32 alone must be wrong here"


def test_gram_is_the_same_in_any_order_once_rows_are_sorted() -> None:
    target = unit(500, 24)
    other = target[np.random.default_rng(0).permutation(500)]
    assert gram(in_byte_order(other)).tobytes() == gram(in_byte_order(target)).tobytes()
    assert gram(target) == pytest.approx(target.astype(float).T @ target.astype(float), abs=1e-12)
    assert (gram(target) == gram(target).T).all()


def test_norms_have_their_bounds() -> None:
    target = np.tile(np.eye(8, dtype=np.float16)[:1], (9, 1))
    vectors = np.eye(8, dtype=np.float16)[:2]
    vectors[1] *= -1
    assert largest(vectors, -target).tolist() == [1, 0]
    assert lengths(vectors, gram(target)).tolist() == [3, 0]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.drawn(60)


@pytest.fixture(scope="module")
def pool(samples: Samples) -> Filtered:
    return filtered(samples, shards=3)


def best(samples: Samples, values: np.ndarray, n: int) -> set[str]:
    order = sorted(range(len(samples)), key=lambda i: (-values[i], samples.uid[i]))
    return {samples.uid[i] for i in order[:n]}


@pytest.mark.parametrize("p", [2, "inf"])
@pytest.mark.parametrize("fraction", [0.0, 0.29, 1.0])
def test_keeps_the_highest_by_a_sort(
    samples: Samples, pool: Filtered, tmp_path: Path, p: int | str, fraction: float
) -> None:
    target = unit(25, seed=8)
    found = pool.through(cut_of(tmp_path, target, p=p, fraction=fraction))
    assert set(found.kept) == best(samples, oracle(samples.image, target, p), asked(fraction, 60))
    told = np.array([row["value"] for row in found.rows])
    assert told == pytest.approx(oracle(samples.image, target, p), rel=1e-6)


@pytest.mark.parametrize("p", [2, "inf"])
def test_one_answer_for_any_shards_and_order(samples: Samples, tmp_path: Path, p: int | str) -> None:
    tied = samples.take([*range(40), *range(20)])
    tied.uid[40:] = Samples.drawn(20, seed=9).uid
    found = answers(tied, cut_of(tmp_path, unit(25, seed=8), p=p, count=31))
    assert len(found[0]) == 31
    assert all(answer == found[0] for answer in found)


@pytest.mark.parametrize("p", [2, "inf"])
def test_the_order_of_the_target_changes_nothing(pool: Filtered, tmp_path: Path, p: int | str) -> None:
    target = unit(300, seed=8)
    base = pool.through(cut_of(tmp_path, target, p=p, count=20)).rows
    (tmp_path / "other").mkdir()
    other = target[np.random.default_rng(1).permutation(300)]
    assert pool.through(cut_of(tmp_path / "other", other, p=p, count=20)).rows == base


def test_a_target_row_twice_changes_no_largest_value_but_every_length(pool: Filtered, tmp_path: Path) -> None:
    target = unit(9, seed=8)
    (tmp_path / "twice").mkdir()
    twice = np.concatenate([target, target[:4], target[:4]])

    def values(folder: Path, target: np.ndarray, p: int | str) -> list[object]:
        return [row["value"] for row in pool.through(cut_of(folder, target, p=p, count=20)).rows]

    assert values(tmp_path / "twice", twice, "inf") == values(tmp_path, target, "inf")
    lengths = zip(values(tmp_path / "twice", twice, 2), values(tmp_path, target, 2), strict=True)
    assert all(a > b for a, b in lengths)  # type: ignore[operator]  # floats


@settings(max_examples=5, deadline=None)
@given(share=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_smaller_fraction_is_inside_a_larger_one(pool: Filtered, share: tuple[float, float]) -> None:
    target = pool.run.shards[0].url  # the pool's own first shard
    low, high = (pool.through(Normsim(by="clip", target=target, fraction=f)) for f in sorted(share))
    assert set(low.kept) <= set(high.kept)
    assert len(low.kept) == asked(min(share), 60)


def planted() -> tuple[Samples, np.ndarray, set[str]]:
    """30 samples of 90 near one of 6 target directions, half of them on its far side; the others away from all."""
    rng = np.random.default_rng(2)
    axes = np.eye(16)[:6]
    near = np.repeat(axes, 5, axis=0) * np.tile([1, -1], 15)[:, None] + 0.02 * rng.standard_normal((30, 16))
    away = 0.02 * rng.standard_normal((60, 16))
    away[:, 6:] += rng.standard_normal((60, 10))
    samples = Samples.drawn(90, image=normed(np.concatenate([near, away])))
    order = rng.permutation(90)
    target = normed(np.repeat(axes, 3, axis=0) + 0.02 * rng.standard_normal((18, 16)))
    return samples.take(order), target, set(samples.uid[:30])


@pytest.mark.parametrize("p", [2, "inf"])
@pytest.mark.parametrize("amount", [{"count": 30}, {"threshold": 0.7}])
def test_samples_near_the_target_stay(tmp_path: Path, p: int | str, amount: dict[str, float]) -> None:
    samples, target, near = planted()
    assert set(filtered(samples, cut_of(tmp_path, target, p=p, **amount), shards=4).kept) == near


def test_what_is_out_has_no_value_and_the_fraction_may_be_of_the_pool(tmp_path: Path) -> None:
    samples = Samples.drawn(50, caption=["two words"] * 20 + ["three words here"] * 30)
    target = unit(5, seed=8)
    cuts = Rules(min_words=3), cut_of(tmp_path, target, fraction=0.2, of="pool")
    found = filtered(samples, *cuts, shards=3)
    inside = samples.take(range(20, 50))
    assert set(found.kept) == best(inside, oracle(inside.image, target, "inf"), 10)
    assert [row["value"] is None for row in found.rows] == [True] * 20 + [False] * 30


def test_another_fraction_reads_no_vector(pool: Filtered, tmp_path: Path) -> None:
    cut = cut_of(tmp_path, unit(5, seed=8), fraction=0.5)
    first = pool.through(cut)
    again = pool.through(replace(cut, fraction=0.4))
    assert [step.stage for step in first.steps[3:]] == ["target", "norms", "normsim"]
    assert [step.reused for step in again.steps[3:]] == [True, True, False]
    length = pool.through(replace(cut, p=2))
    assert [step.reused for step in length.steps[3:]] == [True, False, False]


def test_shards_and_pools_without_survivors(tmp_path: Path) -> None:
    samples = Samples.drawn(20, caption=["one"] * 10 + ["two words"] * 10)
    for p in (2, "inf"):
        cut = cut_of(tmp_path, unit(5, seed=8), p=p, count=4)
        assert len(filtered(samples, Rules(min_words=2), cut, shards=4).kept) == 4
        assert filtered(samples, Random(count=0), cut, shards=2).kept == []


@pytest.mark.parametrize("p", [2, "inf"])
def test_a_target_of_another_encoder_is_refused(pool: Filtered, tmp_path: Path, p: int | str) -> None:
    with pytest.raises(JobError, match="its vectors have 8 numbers and those of clip have 16; make it with the same"):
        pool.through(cut_of(tmp_path, unit(5, 8), p=p, count=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "must have one of fraction, count and threshold, got none"),
        ({"count": 3, "p": 3}, "Input should be 2 or 'inf'"),
        ({"count": 3, "p": float("inf")}, "Input should be 2 or 'inf'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((JobError, ValueError), match=message):
        Normsim(**{"by": "clip", "target": "t.npy", **options})


def contaminated(samples: Samples) -> tuple[np.ndarray, dict[int, int]]:
    """An evaluation set of 25, and which of its rows a sample is nearly equal to."""
    target, copies = unit(25, seed=8), {3: 7, 20: 0, 41: 24}
    for sample, row in copies.items():
        target[row] = normed(samples.image[sample : sample + 1] + 0.02 * unit(1, seed=sample))[0]
    return target, copies


def test_what_is_too_near_to_an_evaluation_set_goes_and_is_told_what_it_is_near_to(tmp_path: Path) -> None:
    samples = Samples.drawn(60)
    target, copies = contaminated(samples)
    out = filtered(samples, cut_of(tmp_path, target, keep="lowest", threshold=0.95), shards=3)
    assert out.kept == [uid for n, uid in enumerate(samples.uid) if n not in copies]
    expected = oracle(samples.image, target, "inf").astype(np.float32)
    closest = np.abs(samples.image.astype(np.float64) @ target.astype(np.float64).T).argmax(axis=1)
    for n, row in enumerate(out.rows):
        assert row["value"] == expected[n]
        assert row["nearest"] == f"{tmp_path}/target.npy: row {copies.get(n, closest[n])}"


def test_decontamination_is_one_answer_and_takes_counts_too(tmp_path: Path) -> None:
    samples = Samples.drawn(60)
    target, copies = contaminated(samples)
    for cut in (
        cut_of(tmp_path, target, keep="lowest", threshold=0.95),
        cut_of(tmp_path, target, keep="lowest", count=57),
    ):
        found = answers(samples, cut)
        assert all(answer == found[0] for answer in found)
        assert set(samples.uid) - set(found[0]) == {samples.uid[n] for n in copies}


def test_only_what_is_in_is_compared_with_an_evaluation_set(tmp_path: Path) -> None:
    samples = Samples.drawn(60)
    target, copies = contaminated(samples)
    pool = filtered(samples, Random(count=20), shards=3)
    out = pool.through(cut_of(tmp_path, target, keep="lowest", threshold=0.95))
    assert [row["nearest"] is None for row in out.rows] == [uid not in pool.kept for uid in samples.uid]
    assert set(out.kept) == set(pool.kept) - {samples.uid[n] for n in copies}


def test_a_decontaminated_job_is_explained_and_checked(tmp_path: Path) -> None:
    samples = Samples.drawn(60)
    target, copies = contaminated(samples)
    pool = {"shards": [*write_datacomp(tmp_path / "pool", samples, 3)], "format": "datacomp", "use": ["l14"]}
    cut = {"by": "l14", "target": written(tmp_path, target), "keep": "lowest", "threshold": 0.95}
    values = {"name": "j", "store": str(tmp_path / "store"), "pool": pool, "policy": [{"normsim": cut}]}
    result = run_job(parse(values), LocalExecutor(1), lambda line: None)
    rows = [row for shard in range(3) for row in result.path.manifest.read(shard).to_pylist()]
    assert [n for n, row in enumerate(rows) if row["reason"] == "normsim"] == [*copies]
    assert rows[20]["normsim.nearest"] == f"{tmp_path}/target.npy: row 0"
    found = {x.check: str(x) for x in verify_job(values["store"], "j", LocalExecutor(1), RowSample(None))}
    assert [line for line in found.values() if line.startswith("NOT")] == []
    said = lines_of(explain(values["store"], "j", uid=samples.uid[20], workers=1).said[0])
    assert said[0].startswith("value 0.99")
    assert "0.95" in said[0]
    assert f"nearest {tmp_path}/target.npy: row 0" in said
    made = dict(result.path.stages)["normsim.norms"]
    url = artifact_of(made, values["store"]).shard(0)
    table = pq.read_table(url)
    names = table["nearest"].to_pylist()
    names[3] = names[4]
    pq.write_table(table.set_column(1, "nearest", pa.array(names)), url)
    found = {x.check: str(x) for x in verify_job(values["store"], "j", LocalExecutor(1), RowSample(None))}
    assert "normsim.nearest must be" in found["norms"]
