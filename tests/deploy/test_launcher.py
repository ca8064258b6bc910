"""Ray's own cluster launcher takes the YAML for AWS and GCP, and the sizes in it fit each other and the job."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from winnow.jobs.job_file.job import load_job

ROOT = Path(__file__).parents[2]
CLOUDS = ("aws", "gcp")
SCHEMA = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())


def text(cloud: str) -> str:
    return (ROOT / f"deploy/{cloud}.yaml").read_text()


def read(cloud: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text(cloud))
    return found


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_launcher_takes_it(cloud: str) -> None:
    jsonschema.validate(read(cloud), SCHEMA)
    prepared = prepare_config(read(cloud))
    validate_config(prepared)
    # what is not written here would come from Ray's defaults, which install a Ray of their own
    assert not any("ray" in command for command in prepared["setup_commands"])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_launcher_sees_a_slip(cloud: str) -> None:
    for slip in ({"max_worker": 3}, {"head_node_type": "none"}, {"max_workers": "3"}):
        with pytest.raises((ValueError, jsonschema.ValidationError)):
            validate_config(prepare_config({**read(cloud), **slip}))
    broken = copy.deepcopy(read(cloud))
    del broken["available_node_types"]["gpu"]["node_config"]
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_workers_are_spot_and_grow_from_none_and_the_head_stays(cloud: str) -> None:
    types = read(cloud)["available_node_types"]
    head = types.pop("head")
    assert head["resources"]["CPU"] == 0
    assert not is_spot(head["node_config"])
    for kind in types.values():
        assert is_spot(kind["node_config"])
        assert kind["min_workers"] == 0
    assert read(cloud)["max_workers"] == sum(kind["max_workers"] for kind in types.values())


def is_spot(node: dict[str, Any]) -> bool:
    if "InstanceType" in node:
        return bool(node.get("InstanceMarketOptions") == {"MarketType": "spot"})
    return any(entry.get("provisioningModel") == "SPOT" for entry in node.get("scheduling", []))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_workers_that_are_asked_for_are_those_that_fit(cloud: str) -> None:
    asked = re.search(r"two_steps\.sh /winnow/(\S+) (\d+) (\d+)", text(cloud))
    assert asked
    needs = load_job(str(ROOT / asked[1])).needs
    gpu, cpu = (read(cloud)["available_node_types"][name] for name in ("gpu", "cpu"))
    assert needs.gpus * int(asked[2]) == gpu["resources"]["GPU"] * gpu["max_workers"]
    assert needs.cpus <= gpu["resources"]["CPU"]
    assert int(asked[3]) == cpu["resources"]["CPU"] * cpu["max_workers"]
    # docs/scale.md: two answers of 5 MB a worker, ten times over
    assert 10 * cpu["resources"]["CPU"] * 2 * 5e6 <= cpu["resources"]["object_store_memory"]
    [shared] = re.findall(r"--shm-size=(\d+)g", " ".join(cpu["docker"]["worker_run_options"]))
    assert cpu["resources"]["object_store_memory"] < int(shared) * 2**30 / 1.05


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_node_has_the_token_and_no_dashboard_is_open(cloud: str) -> None:
    config = read(cloud)
    assert config["file_mounts"] == {"/home/winnow/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_MODE=token" in (ROOT / "deploy/Dockerfile").read_text()
    [start] = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in start
