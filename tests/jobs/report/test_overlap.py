"""Overlap of two sorted lists of uids: counts by Counter, in blocks of any size."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.jobs.report.overlap import Overlap, overlap
from winnow.pipeline import storage
from winnow.pipeline.errors import DataError
from winnow.pipeline.uid import UID

UIDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=40)


def saved(url: str, uids: list[tuple[int, int]]) -> str:
    """A uids.npy of these."""
    with storage.committing(url) as file:
        np.save(file, np.sort(np.array(uids, UID)), allow_pickle=False)
    return url


@given(UIDS, UIDS, st.integers(1, 9))
def test_a_uid_counts_as_often_as_both_have_it(
    one: list[tuple[int, int]], two: list[tuple[int, int]], block: int
) -> None:
    first, second = saved("memory://overlap/one.npy", one), saved("memory://overlap/two.npy", two)
    both = (Counter(one) & Counter(two)).total()
    expected = Overlap(both, len(one) - both, len(two) - both)
    assert overlap(first, second, block) == expected
    assert overlap(second, first, block) == Overlap(both, len(two) - both, len(one) - both)
    either = len(one) + len(two) - both
    assert expected.jaccard == (both / either if either else 1.0)


def test_a_file_that_is_no_list_of_uids_is_told(tmp_path: Path) -> None:
    good = saved(str(tmp_path / "good.npy"), [(1, 2), (3, 4)])
    np.save(tmp_path / "other.npy", np.arange(3))
    (tmp_path / "text.npy").write_text("no array at all")
    (tmp_path / "short.npy").write_bytes(Path(good).read_bytes()[:-20])
    for name, said in (("other", "sorted array"), ("text", "subset of uids"), ("short", "2 are missing at its end")):
        with pytest.raises(DataError, match=re.escape(said)):
            overlap(good, str(tmp_path / f"{name}.npy"))
