"""Pairs of duplicates: shown where both of them were found, the lowest rank first."""

from winnow.jobs.report.pairs import pairs_of
from winnow.jobs.report.scan import Pick


def test_a_pair_needs_both() -> None:
    picks = [Pick(0.3, 0, 1, "", b"a"), Pick(0.1, 0, 2, "", b"b"), Pick(0.2, 0, 3, "", b"c")]
    assert pairs_of(picks, {b"a": (5, 5), b"c": (6, 6)}) == [(picks[2], (6, 6)), (picks[0], (5, 5))]
