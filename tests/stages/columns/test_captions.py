"""Numbers of captions against Python's own words for them, and counts of the pool against a Counter."""

import unicodedata
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pools import Samples, opened_with_columns
from winnow.pipeline.errors import JobError
from winnow.stages.columns import captions as module
from winnow.stages.columns.captions import Captions, repetition, special
from winnow.stages.cuts.rules import Rules

TEXTS = ["a dog", "A  dog a dog", "", "  ", "!?#", "e\u0301 ü 狗 🐕", "नमस्ते दुनिया", "x x x x", "tab\tand\nline"]


def plain_special(text: str) -> float:
    """By the general category of each character."""
    fine = [unicodedata.category(c)[0] in "LMNZ" or c.isspace() for c in text]
    return fine.count(False) / len(text) if text else 0.0


def plain_repetition(text: str, n: int) -> float:
    words, seen, again = text.casefold().split(), set(), 0
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    for gram in grams:
        again += gram in seen
        seen.add(gram)
    return again / len(grams) if grams else 0.0


@given(st.lists(st.text(st.sampled_from("aAbé! .\u0301狗9\n\t"), max_size=20), max_size=5), st.integers(1, 3))
def test_shares_are_those_of_python(texts: list[str], n: int) -> None:
    every = pa.array([*TEXTS, *texts], pa.string())
    assert special(every).tolist() == [plain_special(text) for text in every.to_pylist()]
    assert repetition(every, n).tolist() == [plain_repetition(text, n) for text in every.to_pylist()]


def test_shares_that_are_known() -> None:
    assert repetition(pa.array(["a dog and A dog", "a a a a", "one"]), 1).tolist() == [0.4, 0.75, 0]
    assert repetition(pa.array(["a dog and A dog", "a a a a", "one"]), 2).tolist() == [0.25, 2 / 3, 0]
    assert special(pa.array(["wow!", "9 lives", "#1!?"])).tolist() == [0.25, 0, 0.75]


@pytest.mark.parametrize("part_rows", [None, 7])
@pytest.mark.parametrize("shards", [1, 7, 40])
def test_counts_are_those_of_the_whole_pool(
    shards: int, part_rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part_rows:
        monkeypatch.setattr(module, "_PART_ROWS", part_rows)
    samples = Samples.drawn(90, seed=1)
    samples.caption[:] = [f"caption {n * n % 17}" if n % 3 else TEXTS[n % len(TEXTS)] for n in range(90)]
    pool = opened_with_columns(samples, {"count": Captions("count"), "words": Captions("words")}, shards)
    truth = Counter(samples.caption)
    assert pool.read("count") == [truth[text] for text in samples.caption]
    assert pool.read("words") == [len(text.split()) for text in samples.caption]
    few = pool.filtered.through(Rules(fields={"count": {"max": 3}}))
    assert sorted(few.kept) == sorted(
        uid for uid, text in zip(samples.uid, samples.caption, strict=True) if truth[text] <= 3
    )


def test_sequences_of_words_are_of_repetition_alone() -> None:
    with pytest.raises(JobError, match=r"n must be given for captions: repetition alone, got n: 2 for words"):
        Captions("words", n=2)
