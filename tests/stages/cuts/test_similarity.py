"""The cut by cosine keeps exactly the best pairs, of what is in or of the pool, and strictly above a threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Samples, answers, asked, filtered
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.uid import UID
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.similarity import Similarity


def best(samples: Samples, n: int) -> set[str]:
    """uids of the n highest cosines, ties to the smaller uid."""
    values = samples.cosine.astype(np.float32)
    order = sorted(range(len(samples)), key=lambda i: (-values[i], samples.uid[i]))
    return {samples.uid[i] for i in order[:n]}


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 60), fraction=st.floats(0, 1), shards=st.integers(1, 4))
def test_keeps_the_best_by_a_sort(n: int, fraction: float, shards: int) -> None:
    samples = Samples.drawn(n)
    found = filtered(samples, Similarity(by="clip", fraction=fraction), shards=shards)
    assert set(found.kept) == best(samples, asked(fraction, n))
    assert len(found.kept) == asked(fraction, n)
    assert found.step("similarity").report["kept"] == asked(fraction, n)


def test_one_answer_for_any_shards_and_order() -> None:
    samples = Samples.drawn(50)
    tied = samples.take([*range(50), *range(20)])
    tied.uid[50:] = Samples.drawn(20, seed=9).uid
    for answer in answers(tied, Similarity(by="clip", count=31)):
        assert answer == sorted(best(tied, 31))


def test_a_threshold_is_strict() -> None:
    samples = Samples.drawn(40)
    cosine = samples.cosine.astype(np.float32)
    limit = float(np.sort(cosine)[25])
    found = filtered(samples, Similarity(by="clip", threshold=limit), shards=3)
    assert set(found.kept) == {u for u, c in zip(samples.uid, cosine, strict=True) if c > np.float32(limit)}
    assert len(found.kept) == 14


def test_a_fraction_is_of_the_survivors_or_of_the_pool() -> None:
    samples = Samples.drawn(40, caption=["two words"] * 20 + ["three words here"] * 20)
    rules = Rules(min_words=3)
    assert len(filtered(samples, rules, Similarity(by="clip", fraction=0.3), shards=3).kept) == 6
    assert len(filtered(samples, rules, Similarity(by="clip", fraction=0.3, of="pool"), shards=3).kept) == 12
    assert len(filtered(samples, rules, Similarity(by="clip", fraction=0.9, of="pool"), shards=3).kept) == 20
    assert len(filtered(samples, rules, Similarity(by="clip", count=33), shards=3).kept) == 20


def test_the_pool_counts_its_rejects() -> None:
    samples = Samples.drawn(20)
    samples.image[3:8] = 0
    found = filtered(samples, Similarity(by="clip", fraction=0.5, of="pool"), shards=2)
    assert len(found.kept) == 10
    assert found.survivors.count() == 10
    assert found.survivors.pool_count() == 20


def test_what_is_out_stays_out_and_has_no_value() -> None:
    samples = Samples.drawn(30)
    found = filtered(samples, Random(count=12), Similarity(by="clip", fraction=1.0), shards=3)
    assert len(found.kept) == 12
    assert {row["cosine"] is None for row in found.rows if not row["kept"]} == {True}


@pytest.mark.parametrize("cut", [Similarity(by="clip", fraction=0.5), Random(fraction=0.5)])
def test_a_pool_without_survivors_keeps_none(cut: Similarity | Random) -> None:
    found = filtered(Samples.drawn(10), Rules(min_words=99), cut, shards=3)
    assert found.kept == []
    assert found.steps[-1].report["kept"] == 0


def test_nan_is_refused() -> None:
    with pytest.raises(DataError, match=r"clip\.similarity, shard 0: every row of a group must have a value, but 1"):
        Rows(
            np.array([np.nan], np.float32),
            np.zeros(1, np.int32),
            np.zeros(1, UID),
            0,
            column="clip.similarity",
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "must have one of fraction, count and threshold, got none"),
        ({"fraction": 0.1, "count": 3}, r"got \['fraction', 'count'\]"),
        ({"fraction": 30.0}, "fraction must be between 0 and 1, got 30.0; 0.3 keeps 30 %"),
        ({"count": -1}, "count must be at least 0, got -1"),
    ],
)
def test_amounts_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(JobError, match=message):
        Similarity(by="clip", **options)  # type: ignore[arg-type]  # wrong on purpose
