"""The cut of a miniature: counts and clusters shrink with the samples, all else is as the job asks."""

from typing import Any

import pytest

from tests.outside_cut import Longest
from winnow.jobs.job_file.job import options_of
from winnow.stages.cuts.kinds import CUTS

ROWS, SAMPLES = 1_000, 1_000_000.0


@pytest.mark.parametrize(
    ("kind", "asked", "wanted"),
    [
        ("random", {"fraction": 0.3}, {}),
        ("random", {"count": 300_000}, {"count": 300}),
        ("epochs", {"count": 10, "epochs": 3}, {"count": 1}),
        # k-means saw 256,000 of a million, so 256 of a thousand; 1,000 samples fill 50 clusters
        ("density", {"by": "clip", "fraction": 0.3, "clusters": 1000}, {"clusters": 50, "sample_per_cluster": 5}),
        ("prototypes", {"by": "clip", "count": 500, "clusters": 3}, {"count": 1, "clusters": 2}),
        ("duplicates", {"by": "clip", "exact": True}, {}),
        ("duplicates", {"by": "clip", "epsilon": 0.1, "clusters": {"from": "known.npy"}}, {}),
        ("feature_mapping", {"by": "clip", "target": "t.npy", "clusters": 1000, "top": 900}, {"top": 50}),
        ("feature_mapping", {"by": "clip", "target": "t.npy", "clusters": {"from": "known.npy"}, "top": 900}, {}),
    ],
)
def test_what_is_counted_shrinks(kind: str, asked: dict[str, Any], wanted: dict[str, Any]) -> None:
    cut = options_of(CUTS[kind], kind, asked)
    small = cut.smaller(ROWS, SAMPLES)
    changed = {name: value for name, value in vars(small).items() if value != getattr(cut, name)}
    assert changed.items() >= wanted.items()
    assert set(changed) <= {*wanted, "clusters", "sample_per_cluster"}
    assert bool(changed) == bool(wanted)


def test_a_cut_from_outside_shrinks_by_the_names_of_its_options() -> None:
    assert Longest(count=300_000).smaller(ROWS, SAMPLES) == Longest(count=300)
    assert Longest(fraction=0.3).smaller(ROWS, SAMPLES) == Longest(fraction=0.3)
