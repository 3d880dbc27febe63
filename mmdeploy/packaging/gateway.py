"""The gateway of a release: its image, and its objects of Kubernetes.

The image holds what the gateway reads of a release, and none of its weights.
"""

from __future__ import annotations

from pathlib import Path

from mmdeploy.core.version import __version__
from mmdeploy.packaging.container_file import USER_ID, Instruction
from mmdeploy.packaging.objects import Object, disruption_budget, metadata, selector
from mmdeploy.packaging.pod import HARDENED, pod_security
from mmdeploy.packaging.server_options import HTTP_PORT
from mmdeploy.packaging.settings import PackageSettings
from mmdeploy.packaging.subject import Subject
from mmdeploy.triton.staging import copy_file

GATEWAY_PORT = 8080
#: Name of the image in Kubernetes' base; the kustomization says which one it is.
GATEWAY_IMAGE = "gateway"
#: A folder beside the package's, with the wheel of mmdeploy where no index has it; it may be empty.
WHEELS = "wheels"
#: Of a release: what its outputs' scores are.
CONFIDENCE = "confidence.json"
#: The label of pods that may ask Triton.
CLIENT = {"mmdeploy-client": "true"}
#: How long it goes on answering after it was taken out of its service, and then has for what it began, in seconds.
_DRAIN_S, _LAST_S = 5, 35
_PERIOD_S = 10


def gateway_arguments(triton: str) -> list[str]:
    """Return the arguments of ``mmdeploy gateway``: where it asks and listens. Beyond loopback it wants keys.

    Args:
        triton: Name of Triton's host.
    """
    return [
        "/release",
        f"--url=http://{triton}:{HTTP_PORT}",
        "--wait-s=120",
        "--host=0.0.0.0",
        f"--port={GATEWAY_PORT}",
        f"--drain-s={_DRAIN_S}",
    ]


def gateway_files() -> dict[str, bytes]:
    """Return the context of the gateway's image, by name: this version of mmdeploy, from a wheel or an index."""
    lines = (
        Instruction("FROM", "python:3.12-slim"),
        Instruction("COPY", f"--from={WHEELS} . /{WHEELS}/"),
        Instruction("COPY", "requirements.txt /requirements.txt"),
        Instruction("RUN", f"pip install --no-cache-dir --find-links /{WHEELS} --requirement /requirements.txt"),
        Instruction("COPY", "release/ /release/"),
        Instruction("USER", f"{USER_ID}:{USER_ID}"),
        Instruction("EXPOSE", str(GATEWAY_PORT)),
        Instruction("CMD", ("mmdeploy", "gateway", *gateway_arguments("triton"))),
    )
    return {
        "Containerfile": "\n".join([*map(str, lines), ""]).encode(),
        "requirements.txt": f"multimodal-deploy[gateway]=={__version__}\n".encode(),
    }


def copy_described(release: Path, target: Path) -> None:
    """Copy what describes a release: configurations, names of classes, samples; no model, and so no manifest of all.

    Args:
        release: Its folder.
        target: Folder to write.
    """
    for source in sorted(release.rglob("*")):
        inside = source.relative_to(release)
        in_version = len(inside.parts) > 2
        described = source.suffix == ".txt" if in_version else len(inside.parts) == 2 or str(inside) == CONFIDENCE
        if source.is_file() and described:
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            copy_file(source, target / inside)


def keys_name(subject: Subject) -> str:
    """Return the name of the Secret that holds its keys."""
    return f"{subject.slug}-gateway-keys"


def gateway_objects(subject: Subject, settings: PackageSettings, triton: str) -> dict[str, Object]:
    """Return the objects of Kubernetes, by the name of their file.

    Args:
        subject: The release.
        settings: What was chosen.
        triton: Name of the service whose addresses are Triton's pods.
    """
    return {
        "gateway-deployment": _deployment(subject, settings, triton),
        "gateway-service": _service(subject),
        "gateway-poddisruptionbudget": disruption_budget(subject, "gateway"),
        "gateway-networkpolicy": _network_policy(subject),
    }


def _deployment(subject: Subject, settings: PackageSettings, triton: str) -> Object:
    notes = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(GATEWAY_PORT),
        "mmdeploy/manifest-sha256": subject.manifest_sha256,
    }
    labels = selector(subject, "gateway") | CLIENT | {"app.kubernetes.io/version": subject.tag}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(subject, "gateway"),
        "spec": {
            "replicas": min(2, settings.max_replicas),
            "revisionHistoryLimit": 5,
            "selector": {"matchLabels": selector(subject, "gateway")},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels, "annotations": notes},
                "spec": {
                    "serviceAccountName": subject.slug,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": pod_security(),
                    "terminationGracePeriodSeconds": _DRAIN_S + _LAST_S,
                    "containers": [_container(subject, triton)],
                    "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "256Mi"}}],
                },
            },
        },
    }


def _container(subject: Subject, triton: str) -> Object:
    return {
        "name": "gateway",
        "image": GATEWAY_IMAGE,
        "command": ["mmdeploy", "gateway", *gateway_arguments(triton)],
        "envFrom": [{"secretRef": {"name": keys_name(subject)}}],
        "ports": [{"name": "http", "containerPort": GATEWAY_PORT, "protocol": "TCP"}],
        # A guess, not measured: bodies take --max-mib each, and no more than 256 MiB of them are held at once.
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "startupProbe": _probe("/health", 30),
        "readinessProbe": _probe("/ready", 2),
        "livenessProbe": _probe("/health", 6),
        "securityContext": HARDENED,
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }


def _probe(path: str, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": _PERIOD_S,
        "timeoutSeconds": 6,
        "failureThreshold": failures,
    }


def _service(subject: Subject) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(subject, "gateway"),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(subject, "gateway"),
            "ports": [{"name": "http", "port": GATEWAY_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _network_policy(subject: Subject) -> Object:
    """Let everybody reach it, for it asks for keys, and it reach Triton and the names of services."""
    names = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(subject, "gateway"),
        "spec": {
            "podSelector": {"matchLabels": selector(subject, "gateway")},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": "http"}]}],
            "egress": [
                {
                    "to": [{"podSelector": {"matchLabels": selector(subject, "triton")}}],
                    "ports": [{"protocol": "TCP", "port": "http"}, {"protocol": "TCP", "port": "grpc"}],
                },
                {"to": [{"namespaceSelector": {}}], "ports": names},
            ],
        },
    }
