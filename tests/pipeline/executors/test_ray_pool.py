"""A sick node costs the others nothing and is named; what fails everywhere ends; what hangs, what is lost with a node.

All scenarios are played on one cluster of three nodes, in a process of its own (nodes.py).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.executors.nodes import ITEMS

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(900)
Played = dict[str, Any]

DOUBLED = [[item, 2 * item] for item in range(ITEMS)]


def test_each_scenario(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """One test, for a cluster of three nodes takes half a minute to start and to end."""
    command = [sys.executable, "-m", "tests.pipeline.executors.nodes", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    played = {line["name"]: line for line in lines}
    assert set(played) == set(JUDGED)
    for scenario, judge in JUDGED.items():
        with subtests.test(scenario):
            judge(played[scenario])


def ends_well_without_the_sick_node(kind: str, says: str) -> Callable[[Played], None]:
    """The node is named once, by the first line of its error."""

    def judge(found: Played) -> None:
        assert (found["found"], found["error"], found["failed"]) == (DOUBLED, "", {}), "no item is charged a try"
        assert list(found["avoided"].values()) == [kind]
        [node] = found["avoided"]
        [said] = [line for line in found["said"] if "waiting for a worker" not in line]
        assert said.startswith(
            f"winnow: doubles: no more work goes to the node {node}, whose workers failed twice: {says}"
        )
        assert 2 <= found["tries"] <= 6

    return judge


def ends_with_an_error_of_every_node_after_a_few_tries(found: Played) -> None:
    assert found["found"] == []
    assert found["error"].startswith("RuntimeError: CUDA error: device-side assert triggered")
    assert len(found["avoided"]) == 2
    assert 4 <= found["tries"] <= 12


def has_weights_the_fourth_time(found: Played) -> None:
    assert (len(found["found"]), found["error"], found["avoided"]) == (ITEMS, "", {})
    assert 4 <= found["tries"] <= 5


def names_an_item_that_never_ends(found: Played) -> None:
    assert found["found"] == [[item, item] for item in range(ITEMS) if item != 5]
    assert found["error"].startswith(
        "FailedShards: doubles: every shard must finish, but 1 of 12 failed:\n  5: it must"
    )
    assert 2 <= found["tries"] <= 3, "with others, alone, and once more"
    assert found["seconds"] < 120


def asks_again_for_answers_that_went_with_their_node(found: Played) -> None:
    assert found["found"] == list(range(60))
    assert found["wrong"] == []
    assert 1 <= sum(found["done"]) <= 30, "some were lost, and only those are done again"


JUDGED: dict[str, Callable[[Played], None]] = {
    "device": ends_well_without_the_sick_node("RuntimeError", "RuntimeError: CUDA error: device-side assert triggered"),
    "driver": ends_well_without_the_sick_node(
        "DeviceError", "device cuda needs a GPU that torch can use, but this machine has none"
    ),
    "import": ends_well_without_the_sick_node("ImportError", "ImportError: No module named 'open_clip'"),
    "everywhere": ends_with_an_error_of_every_node_after_a_few_tries,
    "refused": has_weights_the_fourth_time,
    "sleeps": names_an_item_that_never_ends,
    "answers": asks_again_for_answers_that_went_with_their_node,
}
