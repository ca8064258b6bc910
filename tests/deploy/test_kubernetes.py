"""KubeRay takes the manifests, the sizes in them fit each other and the job, and no slip passes the schema."""

import copy
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.kuberay import RAY_CLUSTER, RAY_JOB
from winnow.jobs.job_file.job import load_job

ROOT = Path(__file__).parents[2]
GIB = 1 << 30


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / name).read_text())
    return found


CLUSTER, JOB = manifest("raycluster.yaml"), manifest("rayjob.yaml")
GROUPS = {group["groupName"]: group for group in CLUSTER["spec"]["workerGroupSpecs"]}
TEMPLATES = [CLUSTER["spec"]["headGroupSpec"]["template"], *[group["template"] for group in GROUPS.values()]]


@pytest.mark.parametrize(("found", "schema"), [(CLUSTER, RAY_CLUSTER), (JOB, RAY_JOB)], ids=["cluster", "job"])
def test_kuberay_takes_it(found: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(found, schema, cls=jsonschema.Draft202012Validator)


SLIPS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no entrypoint": lambda job: job["spec"].pop("entrypoint"),
    "no head": lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
    "a group without a name": lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"),
    "a field of another name": lambda job: job["spec"].update(ttlSecondAfterFinished=1),
    "a number for a text": lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update(x=0),
    "a job that never ends its cluster": lambda job: job["spec"].update(shutdownAfterJobFinishes=False),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_the_schema_sees_a_slip(slip: str) -> None:
    broken = copy.deepcopy(JOB)
    SLIPS[slip](broken)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, RAY_JOB)


def test_both_are_one_cluster_with_a_token_and_the_ray_of_the_tests() -> None:
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]
    assert CLUSTER["spec"]["rayVersion"] == version("ray")
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token"}
    assert CLUSTER["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_workers_that_are_asked_for_are_those_that_fit() -> None:
    job, embedding, deciding = JOB["spec"]["entrypoint"].split()[-3:]
    needs = load_job(str(ROOT / Path(job).relative_to("/winnow"))).needs
    gpu, cpu = limits("gpu"), limits("cpu")
    assert needs.gpus * int(embedding) == int(gpu["nvidia.com/gpu"]) * GROUPS["gpu"]["maxReplicas"]
    assert needs.cpus <= int(gpu["cpu"])
    assert int(deciding) == int(cpu["cpu"]) * GROUPS["cpu"]["maxReplicas"]


def test_a_worker_that_compares_fits_at_two_billion() -> None:
    cores, memory = int(limits("cpu")["cpu"]), int(limits("cpu")["memory"].removesuffix("Gi")) * GIB
    store = int(GROUPS["cpu"]["rayStartParams"]["object-store-memory"])
    assert 10 * cores * 2 * 5e6 <= store  # docs/scale.md: two answers of 5 MB a worker, ten times over
    # 2 GB in an exchange, and the vectors of a shard of a million rows with two probes
    assert cores * (2e9 + 3e9) <= memory - store


def test_no_pod_is_root_and_none_holds_more_than_it_asked_for() -> None:
    for template in TEMPLATES:
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            # a limit above the request is a worker that is killed when its neighbours wake up
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted == {volume["name"] for volume in template["spec"].get("volumes", [])}
    for name in GROUPS:
        [volume] = GROUPS[name]["template"]["spec"]["volumes"]
        assert volume["emptyDir"]["sizeLimit"] == limits(name)["ephemeral-storage"]


def limits(group: str) -> dict[str, str]:
    found: dict[str, str] = GROUPS[group]["template"]["spec"]["containers"][0]["resources"]["limits"]
    return found
