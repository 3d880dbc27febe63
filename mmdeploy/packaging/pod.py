"""The container and the pod of a release, as Kubernetes' objects: the same in a Deployment and in KServe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdeploy.packaging.container_file import ALIVE, READY, STARTUP_S, USER_ID
from mmdeploy.packaging.server_options import EXIT_TIMEOUT_S, GRPC_PORT, HTTP_PORT, METRICS_PORT
from mmdeploy.packaging.subject import Subject

#: How long a pod goes on serving after it was taken out of the service: until everybody has noticed.
DRAIN_S = 5
GRACE_S = DRAIN_S + EXIT_TIMEOUT_S + 10
#: Room in /dev/shm, where steps in Python exchange tensors with the server.
SHARED_MEMORY_MIB = 256
_SCRATCH_MIB = 256
_PERIOD_S, _TIMEOUT_S = 10, 6
GPU = "nvidia.com/gpu"
#: The rights of a container.
HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


def secret_name(subject: Subject) -> str:
    """Return the name of the Secret that holds the control key."""
    return f"{subject.slug}-control-key"


def container_object(subject: Subject, name: str, image: str, cores: int | None = None) -> dict[str, Any]:
    """Return the container.

    Args:
        subject: The release.
        name: What it is called.
        image: Its image.
        cores: To ask for; the threads of the model that has most where it is left out.
    """
    memory = {"memory": f"{subject.memory_limit_mib}Mi"}
    gpu = {GPU: "1"} if subject.gpu else {}
    return {
        "name": name,
        "image": image,
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": str(cores or subject.threads), "memory": f"{subject.memory_request_mib}Mi", **gpu},
            "limits": memory | gpu,
        },
        "startupProbe": _probe(READY, STARTUP_S // _PERIOD_S),
        "readinessProbe": _probe(READY, 2),
        "livenessProbe": _probe(ALIVE, 6),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(DRAIN_S)]}}},
        "securityContext": HARDENED,
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            {"name": "control-key", "mountPath": "/run/secrets/mmdeploy", "readOnly": True},
        ],
    }


def _probe(command: Sequence[str], failures: int) -> dict[str, Any]:
    return {
        "exec": {"command": [*command]},
        "periodSeconds": _PERIOD_S,
        "timeoutSeconds": _TIMEOUT_S,
        "failureThreshold": failures,
    }


def pod_security() -> dict[str, Any]:
    """Return whose rights a pod has: those of the images' user."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pod_fields(subject: Subject) -> dict[str, Any]:
    """Return the fields of the pod beside its containers."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": GRACE_S,
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": f"{_SCRATCH_MIB}Mi"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_MIB}Mi"}},
            {
                "name": "control-key",
                # Without it the control endpoints are shut for everybody.
                "secret": {"secretName": secret_name(subject), "optional": True, "defaultMode": 0o440},
            },
        ],
    }
