"""Mutated files: every reader gives samples and rejects, or refuses the shard; tars by their laws too."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import HANG_S, TARGETS, Target, drawn, land, mutated, read
from winnow.pipeline.errors import ShardError
from winnow.stages.pools.sample import Sample
from winnow.stages.pools.tars.tar_members import list_members
from winnow.stages.pools.webdataset import Webdataset

NUMBERS = st.integers(0, 2**32 - 1)
EDITS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=6)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(which=NUMBERS, edits=EDITS)
def test_a_mutated_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, target: Target, which: int, edits: list[tuple[int, int, int]]
) -> None:
    case = target.cases[which % len(target.cases)]
    url = land(target, case, edits, tmp_path_factory.getbasetemp() / target.name)
    started = time.monotonic()
    assert read(case, url) in ("read", "refused")
    assert time.monotonic() - started < HANG_S


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(which=NUMBERS, edits=EDITS)
def test_members_and_damage_of_any_tar_lie_apart_in_the_file(which: int, edits: list[tuple[int, int, int]]) -> None:
    target = TARGETS[0]
    data = mutated(next(iter(target.cases[which % len(target.cases)].files.values())), edits)
    try:
        members, damage = list_members(memoryview(data), "a.tar")
    except ShardError:
        return
    ranges = sorted([(m.start, m.end) for m in members] + [(d.offset, d.offset + d.size) for d in damage])
    ends = [0, *(end for _, end in ranges)]
    assert all(start >= end for (start, _), end in zip(ranges, ends, strict=False))
    assert ends[-1] <= len(data)
    assert all(m.start < m.data <= m.data + m.size <= m.end for m in members)
    assert [d.rest for d in damage[:-1]] == [False] * len(damage[:-1])


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(which=NUMBERS, edits=EDITS)
def test_every_sample_of_any_tar_is_accounted_for_once(
    tmp_path_factory: pytest.TempPathFactory, which: int, edits: list[tuple[int, int, int]]
) -> None:
    """Positions are 0, 1, 2 …; what is read are the bytes at the ranges that it names."""
    target = TARGETS[0]
    path = Path(land(target, target.cases[which % len(target.cases)], edits, tmp_path_factory.getbasetemp() / "law"))
    try:
        found = list(Webdataset().samples(str(path)))
    except ShardError:
        return
    data = path.read_bytes()
    assert [item.position for item in found] == list(range(len(found)))
    for sample in found:
        if isinstance(sample, Sample):
            flat = (sample.offset, sample.size, *sample.extra_ranges)
            parts = [data[start : start + size] for start, size in zip(flat[::2], flat[1::2], strict=True)]
            assert any(sample.image in part for part in parts)


def test_a_finding_is_a_number_that_gives_the_same_input_again() -> None:
    target = TARGETS[0]
    for seed in range(20):
        (one, edits), (again, same) = drawn(target, seed), drawn(target, seed)
        assert (one.name, edits) == (again.name, same)
        name = next(iter(one.files))
        assert mutated(one.files[name], edits) == mutated(again.files[name], same)
