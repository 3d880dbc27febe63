"""What Kubernetes' objects of a release have in common: labels, names, and how many pods may be away at once."""

from __future__ import annotations

from typing import Any, Literal

from mmdeploy.packaging.subject import Subject

Object = dict[str, Any]
Part = Literal["triton", "gateway"]


def selector(subject: Subject, part: Part) -> dict[str, str]:
    """Return the labels that a pod of this ensemble has through all its releases."""
    return {"app.kubernetes.io/name": subject.slug, "app.kubernetes.io/component": part}


def metadata(subject: Subject, part: Part) -> Object:
    """Return an object's name and labels."""
    name = subject.slug if part == "triton" else f"{subject.slug}-{part}"
    return {"name": name, "labels": selector(subject, part) | {"app.kubernetes.io/part-of": "mmdeploy"}}


def disruption_budget(subject: Subject, part: Part) -> Object:
    """Return the PodDisruptionBudget: one pod at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(subject, part),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(subject, part)}},
    }
