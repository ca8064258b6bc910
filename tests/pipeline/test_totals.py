"""Summaries of shards add up by field, in any order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.totals import Totals

SUMMARIES = st.lists(
    st.fixed_dictionaries(
        {
            "rows": st.integers(0, 9),
            "rejects": st.dictionaries(st.sampled_from(["no-image", "no-caption"]), st.integers(1, 5)),
            "last": st.none() | st.lists(st.integers(), max_size=2),
        }
    ),
    min_size=1,
    max_size=6,
)


@given(SUMMARIES, st.randoms())
def test_sums_are_those_of_all_shards_in_any_order(summaries, random):
    shuffled = random.sample(summaries, len(summaries))
    found = Totals()
    for summary in shuffled:
        found.add(summary)
    assert found.shards == len(summaries)
    assert found.number("rows") == sum(summary["rows"] for summary in summaries)
    for kind in ("no-image", "no-caption"):
        assert found.by_name("rejects")[kind] == sum(summary["rejects"].get(kind, 0) for summary in summaries)


def test_a_field_that_no_summary_has_is_a_mistake_and_no_zero():
    found = Totals()
    assert (found.number("rows"), found.fields) == (0, [])
    found.add({"rows": 3, "like": "0.tar"})
    with pytest.raises(KeyError, match="summaries must have a number 'kept', but they have rows"):
        found.number("kept")
    assert found.by_name("rejects") == {}
    found.by_name("rejects")["mine"] = 1
    assert found.by_name("rejects") == {}, "a copy"
