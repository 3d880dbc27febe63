"""Docker compose of a release: Triton on loopback; Prometheus in a profile; a gateway where it is chosen.

What its user adds lies beside the folder, not in it: the folder is written anew as a whole.
"""

from __future__ import annotations

from typing import Any

from mmdeploy.packaging.container_file import READY, STARTUP_S, USER_ID
from mmdeploy.packaging.gateway import GATEWAY_PORT, WHEELS, gateway_arguments
from mmdeploy.packaging.plain import as_yaml
from mmdeploy.packaging.pod import GRACE_S, SHARED_MEMORY_MIB
from mmdeploy.packaging.server_options import GRPC_PORT, HTTP_PORT, METRICS_PORT
from mmdeploy.packaging.settings import PackageSettings
from mmdeploy.packaging.subject import Subject

#: The user of Prometheus' image.
_NOBODY = 65534
_PROMETHEUS = "prom/prometheus:v3.5.0"


def compose_file(subject: Subject, settings: PackageSettings) -> bytes:
    """Return ``compose.yaml``."""
    services = {"triton": _triton(subject, settings)}
    if settings.gateway:
        services["gateway"] = _gateway()
    services["prometheus"] = _prometheus()
    found: dict[str, Any] = {"name": subject.slug, "services": services, "volumes": {"prometheus-data": {}}}
    if settings.model_control == "explicit":
        found["secrets"] = {"control-key": {"file": "../control.key"}}
    return as_yaml(found)


def _hardened() -> dict[str, Any]:
    return {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


def _triton(subject: Subject, settings: PackageSettings) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": settings.image_of(subject),
        "build": {"context": "./image", "dockerfile": "Containerfile"},
        "user": f"{USER_ID}:{USER_ID}",
        **_hardened(),
        "tmpfs": [f"/tmp:uid={USER_ID},gid={USER_ID},mode=0700"],
        "shm_size": f"{SHARED_MEMORY_MIB}m",
        "mem_limit": f"{subject.memory_limit_mib}m",
        "ports": [f"127.0.0.1:{port}:{port}" for port in (HTTP_PORT, GRPC_PORT, METRICS_PORT)],
        "healthcheck": {
            "test": ["CMD", *READY],
            "interval": "10s",
            "timeout": "6s",
            "retries": 3,
            "start_period": f"{STARTUP_S}s",
        },
        "stop_grace_period": f"{GRACE_S}s",
        "restart": "unless-stopped",
    }
    if subject.gpu:
        reserved = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [reserved]}}}
    if settings.model_control == "explicit":
        service["secrets"] = [{"source": "control-key", "target": "/run/secrets/mmdeploy/key"}]
    return service


def _gateway() -> dict[str, Any]:
    """Return the gateway's service; its keys come from the environment of who starts it."""
    return {
        "build": {
            "context": "./gateway",
            "dockerfile": "Containerfile",
            "additional_contexts": {WHEELS: f"../{WHEELS}"},
        },
        "user": f"{USER_ID}:{USER_ID}",
        **_hardened(),
        "tmpfs": [f"/tmp:uid={USER_ID},gid={USER_ID},mode=0700"],
        "command": ["mmdeploy", "gateway", *gateway_arguments("triton")],
        "environment": ["MMDEPLOY_GATEWAY_KEYS", "MMDEPLOY_GATEWAY_ADMIN_KEY"],
        "ports": [f"127.0.0.1:{GATEWAY_PORT}:{GATEWAY_PORT}"],
        "depends_on": {"triton": {"condition": "service_healthy"}},
        "restart": "unless-stopped",
    }


def _prometheus() -> dict[str, Any]:
    return {
        "image": _PROMETHEUS,
        "profiles": ["monitoring"],
        "user": f"{_NOBODY}:{_NOBODY}",
        **_hardened(),
        "command": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"],
        "volumes": ["./monitoring:/etc/prometheus:ro", "prometheus-data:/prometheus"],
        "ports": ["127.0.0.1:9090:9090"],
        "depends_on": {"triton": {"condition": "service_healthy"}},
        "restart": "unless-stopped",
    }
