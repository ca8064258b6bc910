"""What Prometheus reads of a run from a real Ray node, under the names that docs/monitoring.md promises."""

import re
import time
import urllib.request
from pathlib import Path

import pytest

from winnow.pipeline.executors.choose import open_metrics
from winnow.pipeline.executors.watching import Done

DOCS = Path(__file__).parents[3] / "docs/monitoring.md"
LINE = re.compile(r'ray_(winnow_\w+)\{.*?job="(?P<job>\w+)".*?stage="(?P<stage>\w+)".*?\} (?P<value>\S+)')


def served(job: str, enough: int) -> dict[str, float]:
    """The numbers of a job by name, once there are so many; Ray's agent hears of them every ten seconds."""
    import ray

    node = next(node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}
    end = time.monotonic() + 40
    while len(found) < enough and time.monotonic() < end:
        time.sleep(0.5)
        with urllib.request.urlopen(url, timeout=10) as answer:
            matches = [LINE.match(line) for line in answer.read().decode().splitlines()]
        found = {m[1]: float(m["value"]) for m in matches if m and m["job"] == job and m["stage"] == "density"}
    return found


def test_prometheus_reads_what_watchers_were_told(ray_cluster: None) -> None:
    [metrics] = open_metrics("ray", "planted")
    metrics.made("density", "density-0000000000000000", 0.0, True)  # before the first pass, with which Ray starts
    metrics.begin("density (pass 1)", 5, 1)
    for shard in range(3):
        metrics.done(Done("density (pass 1)", shard, "host:1", 0.5, 100, shard, 1000, 1))
    metrics.made("density", "density-0000000000000000", 2.0, False)
    found = served("planted", 10)
    assert {name: value for name, value in found.items() if "bucket" not in name} == {
        "winnow_shards_total": 3,
        "winnow_samples_total": 300,
        "winnow_rejects_total": 3,
        "winnow_retries_total": 3,
        "winnow_committed_bytes_total": 3000,
        "winnow_busy_seconds_total": pytest.approx(1.5),
        "winnow_stages_total": 2,
        "winnow_shards_left": 1,
        "winnow_shard_seconds_count": 3,
        "winnow_shard_seconds_sum": pytest.approx(1.95),  # Ray sums the middles of buckets
    }
    documented = set(re.findall(r"`ray_(winnow_\w+)`", DOCS.read_text()))
    assert documented == {re.sub("_(count|sum|bucket)$", "", name) for name in found}


def test_without_ray_nobody_counts() -> None:
    assert open_metrics("local", "planted") == ()
