"""What KubeRay's custom resources may and must hold, as JSON Schema; it lacks what this repository does not use.

From the types of ray.io/v1 in KubeRay 1.7 (ray-operator/apis/ray/v1: a field without `+optional` is required, one with
a default as well) and the checks that its operator makes beside them. Below a pod's template it is Kubernetes' core/v1.
"""

from typing import Any


def closed(required: tuple[str, ...] = (), **properties: object) -> dict[str, Any]:
    """An object with these fields and no others: a field with a slip in its name would be dropped silently."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """A list of at least one."""
    return {"type": "array", "items": item, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
BOOLEAN = {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}  # YAML's bare 0 and true are refused here
QUANTITIES = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"},
}
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}

CONTAINER = closed(
    ("name", "image"),
    name=NAME,
    image=TEXT,
    resources=closed(("requests", "limits"), requests=QUANTITIES, limits=QUANTITIES),
    securityContext=closed(
        allowPrivilegeEscalation=BOOLEAN, capabilities=closed(drop=listed(TEXT)), readOnlyRootFilesystem=BOOLEAN
    ),
    ports=listed(closed(("containerPort",), name=NAME, containerPort=COUNT)),
    volumeMounts=listed(closed(("name", "mountPath"), name=NAME, mountPath=TEXT, readOnly=BOOLEAN)),
)
TEMPLATE = closed(
    ("spec",),
    spec=closed(
        ("containers",),
        serviceAccountName=NAME,
        securityContext=closed(runAsNonRoot=BOOLEAN, runAsUser=COUNT, fsGroup=COUNT),
        nodeSelector=TEXTS,
        tolerations=listed(
            closed(
                key=TEXT,
                operator={"enum": ["Exists", "Equal"]},
                effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            )
        ),
        containers=listed(CONTAINER),
        volumes=listed(
            closed(("name",), name=NAME, emptyDir=closed(sizeLimit=QUANTITIES["additionalProperties"], medium=TEXT))
        ),
    ),
)
# rayStartParams became optional in later versions; earlier ones refuse a group without
HEAD_GROUP = closed(("rayStartParams", "template"), rayStartParams=TEXTS, template=TEMPLATE)
WORKER_GROUP = closed(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER_SPEC = closed(
    ("headGroupSpec", "rayVersion"),
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},  # token authentication asks for it
    authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=NAME),
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=closed(
        idleTimeoutSeconds=COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}
    ),
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs=listed(WORKER_GROUP),
)
JOB_SPEC = closed(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    shutdownAfterJobFinishes={"const": True},  # ttlSecondsAfterFinished is refused without
    ttlSecondsAfterFinished=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=COUNT,
    submitterConfig=closed(backoffLimit=COUNT),
    rayClusterSpec=CLUSTER_SPEC,
)


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A whole file."""
    return closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=closed(("name",), name=NAME, namespace=NAME, labels=TEXTS),
        spec=spec,
    )


RAY_CLUSTER = resource("RayCluster", CLUSTER_SPEC)
RAY_JOB = resource("RayJob", JOB_SPEC)
