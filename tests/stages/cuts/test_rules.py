"""Rules on caption and size against Python's own words for them; the first broken rule is named."""

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Samples, answers, filtered
from winnow.pipeline.errors import DataError, JobError
from winnow.stages.cuts.rules import Rules, broken_rules

Row = tuple[str, int | None, int | None]


def table(rows: list[Row]) -> pa.Table:
    caption, width, height = zip(*rows, strict=True) if rows else ((), (), ())
    sides = {"width": pa.array(width, pa.int32()), "height": pa.array(height, pa.int32())}
    return pa.table({"caption": pa.array(caption, pa.string()), **sides})


def obvious(row: Row) -> list[str]:
    """Rules of `ALL` that a row breaks, in their order."""
    caption, width, height = row
    words, chars = len(caption.split()), len(caption)
    broken = {"min_words": words < 2, "max_words": words > 4, "min_chars": chars < 4, "max_chars": chars > 12}
    known = width is not None and height is not None
    broken["min_side"] = not known or min(width, height) < 100  # type: ignore[type-var]  # known
    broken["max_aspect"] = not known or max(width, height) > 2.5 * min(width, height)  # type: ignore[type-var, operator]  # known
    broken["caption_matches"] = "a" not in caption
    broken["caption_excludes"] = "b" in caption.lower()
    return [name for name, yes in broken.items() if yes]


ALL = Rules(
    min_words=2,
    max_words=4,
    min_chars=4,
    max_chars=12,
    min_side=100,
    max_aspect=2.5,
    caption_matches="a",
    caption_excludes="(?i)b",
)
CAPTIONS = st.text(st.sampled_from("abB xé\t\n\u00a0\u2003\u3000\u200b日") | st.characters(codec="utf-8"), max_size=16)
SIDES = st.none() | st.integers(1, 400)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(CAPTIONS, SIDES, SIDES), max_size=8))
def test_rules_are_what_python_says(rows: list[Row]) -> None:
    broken = broken_rules(ALL, table(rows))
    found = [[name for name, mask in broken.items() if mask[i]] for i in range(len(rows))]
    assert found == [obvious(row) for row in rows]


def test_every_space_of_unicode_parts_words() -> None:
    spaces = [chr(c) for c in range(0x10000) if chr(c).isspace()]
    broken = broken_rules(Rules(min_words=2), table([(f"a{space}b", 1, 1) for space in spaces]))
    assert not broken["min_words"].any()
    broken = broken_rules(Rules(max_words=0), table([(space * 3, 1, 1) for space in ["", *spaces]]))
    assert not broken["max_words"].any()


def test_limits_themselves_pass() -> None:
    rules = Rules(min_words=3, max_words=3, min_chars=5, max_chars=5, min_side=200, max_aspect=3)
    rows: list[Row] = [("a b c", 600, 200), ("a b c", 601, 200), ("a b c", 200, 600), ("a b c", 199, 200)]
    broken = broken_rules(rules, table(rows))
    assert [bool(broken["max_aspect"][i]) for i in range(4)] == [False, True, False, False]
    assert [bool(broken["min_side"][i]) for i in range(4)] == [False, False, False, True]
    assert not any(broken[name].any() for name in ("min_words", "max_words", "min_chars", "max_chars"))


def test_rules_that_are_not_given_are_not_asked() -> None:
    assert broken_rules(Rules(), table([("", None, None)])) == {}
    assert list(broken_rules(Rules(max_words=1), table([("", None, None)]))) == ["max_words"]


def test_the_first_broken_rule_is_named_and_counts_add_up() -> None:
    captions = ["fine words here", "short", "also fine words", "a bad one b"]
    samples = Samples.drawn(4, caption=captions, width=[300, 300, 100, 300])
    rules = Rules(min_words=3, min_side=150, caption_excludes="b$")
    found = filtered(samples, rules, shards=2)
    assert [row["broken"] for row in found.rows] == [None, "min_words", "min_side", "caption_excludes"]
    assert found.kept == [samples.uid[0]]
    report = found.step("rules").report
    assert (report["in"], report["kept"], report["dropped"]) == (4, 1, 3)


def test_a_row_that_is_out_already_breaks_no_rule() -> None:
    samples = Samples.drawn(3, caption=["x", "two words", "three words here"])
    found = filtered(samples, Rules(min_words=2), Rules(min_words=3))
    assert [row["broken"] for row in found.rows] == [None, "min_words", None]
    assert found.steps[-1].report["in"] == 2


def test_one_answer_for_any_shards_and_order() -> None:
    rng = np.random.default_rng(0)
    samples = Samples.drawn(40, caption=["word " * n for n in rng.integers(0, 6, 40)])
    found = answers(samples, Rules(min_words=3, max_words=4))
    assert all(answer == found[0] for answer in found)
    assert found[0] == sorted(u for u, c in zip(samples.uid, samples.caption, strict=True) if 3 <= len(c.split()) <= 4)


@pytest.mark.parametrize(
    ("expression", "why"), [("[a", "missing ]"), (r"(a)\1", "invalid escape"), ("(?=a)", "invalid perl operator")]
)
def test_a_broken_expression_is_a_job_error(expression: str, why: str) -> None:
    with pytest.raises(
        JobError, match=rf"rules\.caption_matches must be a regular expression in the syntax of RE2: .*{re.escape(why)}"
    ):
        Rules(caption_matches=expression)


def test_no_expression_takes_long() -> None:
    """Python's own engine needs 2^60 steps for this caption."""
    broken = broken_rules(Rules(caption_matches="(a+)+$"), table([("a" * 60 + "b", None, None), ("aaa", None, None)]))
    assert broken["caption_matches"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("expression", "caption", "found"),
    [
        (r"\w", "é", False),
        (r"\p{L}", "é", True),
        ("(?i)ÉTÉ", "un été", True),
        ("x$", "x\n", False),
        ("(?m)x$", "x\n", True),
        ("a.b", "a\nb", False),
        ("日", "一日", True),
    ],
)
def test_expressions_are_those_of_re2(expression: str, caption: str, found: bool) -> None:
    broken = broken_rules(Rules(caption_excludes=expression), table([(caption, None, None)]))
    assert broken["caption_excludes"].tolist() == [found]


@pytest.mark.parametrize("sizes", [([], []), ([640], [None]), ([None], [480])])
def test_rules_on_sizes_that_nobody_knows_are_an_error_and_no_empty_pool(sizes: tuple[list[int], list[int]]) -> None:
    samples = Samples.drawn(10)
    samples = replace(samples, width=(sizes[0] or [None]) * 10, height=(sizes[1] or [None]) * 10)
    with pytest.raises(DataError) as error:
        filtered(samples, Rules(min_side=100, min_words=1), shards=3)
    assert "rules.min_side must know the width and height of samples, but none of 10 samples has both" in str(
        error.value
    )
    assert filtered(samples, Rules(min_chars=1)).survivors.count() == 10
    samples.width[4] = samples.height[4] = 200
    assert filtered(samples, Rules(min_side=100), shards=3).survivors.count() == 1
