"""A sick node costs the others nothing and is named; what fails everywhere ends; what hangs, what is lost with a node.

All scenarios are played on one cluster of three nodes, in a process of its own (nodes.py).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.executors.nodes import ITEMS

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(900)
DOUBLED = [[item, 2 * item] for item in range(ITEMS)]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.pipeline.executors.nodes", str(tmp_path_factory.mktemp("nodes"))]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize(
    ("scenario", "kind", "says"),
    [
        ("device", "RuntimeError", "RuntimeError: CUDA error: device-side assert triggered"),
        ("driver", "DeviceError", "device cuda needs a GPU that torch can use, but there is none here"),
        ("import", "ImportError", "ImportError: No module named 'open_clip'"),
    ],
)
def test_a_job_ends_well_without_a_node_that_fails_and_names_it_once(
    played: dict[str, dict[str, Any]], scenario: str, kind: str, says: str
) -> None:
    found = played[scenario]
    assert (found["found"], found["error"], found["failed"]) == (DOUBLED, "", {}), "no item is charged a try"
    assert list(found["avoided"].values()) == [kind]
    [node] = found["avoided"]
    [said] = [line for line in found["said"] if "waiting for a worker" not in line]
    assert said.startswith(f"winnow: doubles: no more work goes to the node {node}, whose workers failed twice: {says}")
    assert 2 <= found["tries"] <= 6


def test_an_error_of_every_node_ends_the_job_with_it_after_a_few_tries(played: dict[str, dict[str, Any]]) -> None:
    found = played["everywhere"]
    assert found["found"] == []
    assert found["error"].startswith("RuntimeError: CUDA error: device-side assert triggered")
    assert len(found["avoided"]) == 2
    assert 4 <= found["tries"] <= 12


def test_weights_that_the_hub_refuses_three_times_are_had_the_fourth_time(played: dict[str, dict[str, Any]]) -> None:
    found = played["refused"]
    assert (len(found["found"]), found["error"], found["avoided"]) == (ITEMS, "", {})
    assert 4 <= found["tries"] <= 5


def test_an_item_that_never_ends_is_tried_once_more_and_named(played: dict[str, dict[str, Any]]) -> None:
    found = played["sleeps"]
    assert found["found"] == [[item, item] for item in range(ITEMS) if item != 5]
    assert found["error"].startswith(
        "FailedShards: doubles: every shard must finish, but 1 of 12 failed:\n  5: it must"
    )
    assert 2 <= found["tries"] <= 3, "with others, alone, and once more"
    assert found["seconds"] < 120


def test_answers_that_went_with_their_node_are_asked_for_again(played: dict[str, dict[str, Any]]) -> None:
    found = played["answers"]
    assert found["found"] == list(range(60))
    assert found["wrong"] == []
    assert 1 <= sum(found["done"]) <= 30, "some were lost, and only those are done again"
