"""Cores and memory of this machine: limits of control groups of both versions, from planted files; the refusal."""

import os
from pathlib import Path

import pytest

from winnow.pipeline.errors import DataError
from winnow.pipeline.machine import cgroup_limits, cgroup_quotas, check_memory, cores, memory_bytes


def planted(folder: Path, own: str, files: dict[str, str]) -> list[int]:
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)
    (folder / "own").write_text(own)
    return cgroup_limits(folder / "cgroup", folder / "own")


def test_version_2_takes_every_limit_up_to_the_root(tmp_path: Path) -> None:
    files = {"memory.max": "900\n", "a/memory.max": "max\n", "a/b/memory.max": "700\n", "other/memory.max": "1\n"}
    assert sorted(planted(tmp_path, "0::/a/b\n", files)) == [700, 900]


def test_version_1_has_a_folder_of_its_own(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/a/memory.limit_in_bytes": "500\n"}
    own = "3:cpu,cpuacct:/a\n2:memory:/a\n1:name=systemd:/a\n"
    assert sorted(planted(tmp_path, own, files)) == [500, 9223372036854771712]


def test_a_container_finds_its_limit_at_the_root(tmp_path: Path) -> None:
    assert planted(tmp_path, "0::/docker/0123\n", {"memory.max": "800\n"}) == [800]


def test_no_control_groups_no_limit(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path / "cgroup", tmp_path / "own") == []
    assert planted(tmp_path, "0::/\n", {}) == []


def test_this_machine_has_memory() -> None:
    assert 1 << 26 < memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def quotas(folder: Path, own: str, files: dict[str, str]) -> list[float]:
    planted(folder, own, files)
    return cgroup_quotas(folder / "cgroup", folder / "own")


def test_cpu_time_of_version_2_is_limited_by_every_group_up_to_the_root(tmp_path: Path) -> None:
    files = {"cpu.max": "400000 100000\n", "a/cpu.max": "max 100000\n", "a/b/cpu.max": "150000 100000\n"}
    assert sorted(quotas(tmp_path, "0::/a/b\n", files)) == [1.5, 4.0]


def test_cpu_time_of_version_1(tmp_path: Path) -> None:
    files = {
        "cpu/a/cpu.cfs_quota_us": "250000\n",
        "cpu/a/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
    }
    assert quotas(tmp_path, "3:cpu,cpuacct:/a\n2:memory:/a\n", files) == [2.5]


def test_cores_are_those_that_the_process_may_run_on() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= cores() <= len(before)


def test_what_does_not_fit_is_refused_with_the_arithmetic() -> None:
    check_memory(80, 100, "this", "take less")
    with pytest.raises(DataError, match=r"^this takes 8.1e-08 GB, but must fit in 0.8 of the 1e-07 GB .* take less$"):
        check_memory(81, 100, "this", "take less")
