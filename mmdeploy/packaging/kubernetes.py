"""Kubernetes by kustomize: a base of objects, and an overlay for what the release runs on."""

from __future__ import annotations

import math

from mmdeploy.packaging.gateway import CLIENT, GATEWAY_IMAGE, gateway_objects
from mmdeploy.packaging.objects import Object, disruption_budget, metadata, selector
from mmdeploy.packaging.plain import as_yaml
from mmdeploy.packaging.pod import container_object, pod_fields
from mmdeploy.packaging.server_options import GRPC_PORT, HTTP_PORT, METRICS_PORT
from mmdeploy.packaging.settings import PackageSettings
from mmdeploy.packaging.subject import Subject

#: Name of the image in the base; the kustomization says which one it is.
IMAGE = "release"
#: What Prometheus' adapter calls the queue time of a request, in milliseconds.
QUEUE_METRIC = "mmdeploy_queue_ms_per_request"
#: Where nothing was measured.
_LATENCY_MS = 10.0
#: Namespace that may read the metrics.
_MONITORING = "monitoring"


def kubernetes_files(subject: Subject, settings: PackageSettings) -> dict[str, bytes]:
    """Return the files below ``kubernetes/``, by name."""
    objects = {
        "serviceaccount": _service_account(subject),
        "deployment": _deployment(subject, settings),
        "service": _service(subject),
        "horizontalpodautoscaler": _autoscaler(subject, settings),
        "poddisruptionbudget": disruption_budget(subject, "triton"),
        "networkpolicy": _network_policy(subject),
    }
    images = {IMAGE: settings.image_of(subject)}
    if settings.gateway:
        objects |= {"service-pods": _pods_service(subject)}
        objects |= gateway_objects(subject, settings, _pods_name(subject))
        images[GATEWAY_IMAGE] = settings.gateway_image_of(subject)
    found = {f"base/{name}.yaml": as_yaml(content) for name, content in objects.items()}
    found["base/kustomization.yaml"] = as_yaml(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{name}.yaml" for name in objects],
            "images": [_image(name, image) for name, image in images.items()],
        }
    )
    overlay = "gpu" if subject.gpu else "cpu"
    found[f"overlays/{overlay}/kustomization.yaml"] = as_yaml(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../../base"],
            "patches": [{"path": "deployment.yaml"}],
        }
    )
    found[f"overlays/{overlay}/deployment.yaml"] = as_yaml(_patch(subject))
    found["prometheus-adapter.yaml"] = as_yaml(_adapter_rules(subject))
    return found


def _image(name: str, image: str) -> Object:
    new, _, tag = image.rpartition(":")
    return {"name": name, "newName": new, "newTag": tag}


def _service_account(subject: Subject) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(subject, "triton"),
        "automountServiceAccountToken": False,
    }


def _deployment(subject: Subject, settings: PackageSettings) -> Object:
    release = {"app.kubernetes.io/version": subject.tag}
    memory = "measured" if subject.peak_bytes is not None else "guessed: no memory gate measured it"
    notes = {
        "mmdeploy/memory": memory,
        "mmdeploy/manifest-sha256": subject.manifest_sha256,
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(METRICS_PORT),
    }
    if settings.sizing is not None:
        plan = settings.sizing
        notes["mmdeploy/capacity"] = f"{plan.replicas} pods for {plan.rate_per_s:g}/s, p99 {plan.p99_ms:g} ms"
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(subject, "triton")},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(subject, "triton"),
        "spec": {
            # No number of replicas: it is the autoscaler's.
            "revisionHistoryLimit": 5,
            "selector": {"matchLabels": selector(subject, "triton")},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": selector(subject, "triton") | release, "annotations": notes},
                "spec": pod_fields(subject)
                | {
                    "serviceAccountName": subject.slug,
                    "topologySpreadConstraints": [spread],
                    "containers": [container_object(subject, "triton", IMAGE, settings.cores)],
                },
            },
        },
    }


def _service(subject: Subject) -> Object:
    ports = (("http", HTTP_PORT), ("grpc", GRPC_PORT), ("metrics", METRICS_PORT))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(subject, "triton"),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(subject, "triton"),
            "ports": [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in ports],
        },
    }


def _pods_name(subject: Subject) -> str:
    return f"{subject.slug}-pods"


def _pods_service(subject: Subject) -> Object:
    """Give the pods' own addresses: a connection of gRPC to the service's one address would stay with one pod."""
    ports = (("http", HTTP_PORT), ("grpc", GRPC_PORT))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(subject, "triton") | {"name": _pods_name(subject)},
        "spec": {
            "clusterIP": "None",
            "selector": selector(subject, "triton"),
            "ports": [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in ports],
        },
    }


def queue_target_ms(subject: Subject) -> float:
    """Return how long a request may wait in all steps: twice what it takes by itself, beside waiting for a batch."""
    return subject.batching_ms + 2 * (subject.latency_ms or _LATENCY_MS)


def _autoscaler(subject: Subject, settings: PackageSettings) -> Object:
    target = f"{max(1, math.ceil(1000 * queue_target_ms(subject)))}m"
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(subject, "triton"),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": subject.slug},
            "minReplicas": settings.min_replicas,
            "maxReplicas": settings.max_replicas,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": QUEUE_METRIC},
                        "target": {"type": "AverageValue", "averageValue": target},
                    },
                }
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
    }


def _network_policy(subject: Subject) -> Object:
    """Let clients that are labelled so reach the model, monitoring the metrics, and the server nobody."""
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": _MONITORING}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(subject, "triton"),
        "spec": {
            "podSelector": {"matchLabels": selector(subject, "triton")},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [{"podSelector": {"matchLabels": CLIENT}}],
                    "ports": [{"protocol": "TCP", "port": "http"}, {"protocol": "TCP", "port": "grpc"}],
                },
                {
                    "from": [{"namespaceSelector": monitoring}],
                    "ports": [{"protocol": "TCP", "port": "metrics"}],
                },
            ],
            "egress": [],
        },
    }


def _patch(subject: Subject) -> Object:
    """Return what the overlay adds to the Deployment: where its pods may run."""
    spec: Object = {"nodeSelector": {"kubernetes.io/arch": "amd64"}}
    if subject.gpu:
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": subject.slug},
        "spec": {"template": {"spec": spec}},
    }


def _adapter_rules(subject: Subject) -> Object:
    """Return values for Prometheus' adapter (its Helm chart), which makes the autoscaler's metric of Triton's."""
    parts = "|".join(model.replace(".", "[.]") for model in subject.steps)  # a regular expression in a quoted string
    waited = f'sum(rate(nv_inference_queue_duration_us{{<<.LabelMatchers>>,model=~"{parts}"}}[2m])) by (<<.GroupBy>>)'
    asked = (
        f'sum(rate(nv_inference_request_success{{<<.LabelMatchers>>,model="{subject.name}"}}[2m])) by (<<.GroupBy>>)'
    )
    return {
        "rules": {
            "custom": [
                {
                    "seriesQuery": f'nv_inference_queue_duration_us{{namespace!="",pod!="",model="{subject.name}"}}',
                    "resources": {
                        "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}},
                    },
                    "name": {"as": QUEUE_METRIC},
                    # All steps' queues, for one request to the ensemble; 0 where there is none.
                    "metricsQuery": f"{waited} / 1000 / clamp_min({asked}, 0.001)",
                }
            ]
        }
    }
