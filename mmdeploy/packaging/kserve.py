"""A KServe InferenceService of a release: the image is the predictor, so nothing is downloaded when a pod starts."""

from __future__ import annotations

from mmdeploy.packaging.plain import as_yaml
from mmdeploy.packaging.pod import container_object, pod_fields
from mmdeploy.packaging.settings import PackageSettings
from mmdeploy.packaging.subject import Subject

#: What KServe calls the container that it asks.
_CONTAINER = "kserve-container"


def kserve_files(subject: Subject, settings: PackageSettings) -> dict[str, bytes]:
    """Return the files below ``kserve/``, by name."""
    container = container_object(subject, _CONTAINER, settings.image_of(subject), settings.cores)
    container["ports"] = container["ports"][:1]  # KServe routes to one port
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": subject.slug,
            # Plain Deployments: Knative as it comes allows neither these volumes nor a startup probe.
            "annotations": {"serving.kserve.io/deploymentMode": "Standard"},
        },
        "spec": {
            "predictor": pod_fields(subject)
            | {
                "minReplicas": settings.min_replicas,
                "maxReplicas": settings.max_replicas,
                "containers": [container],
            }
        },
    }
    return {"inferenceservice.yaml": as_yaml(service)}
