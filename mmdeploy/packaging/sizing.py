"""How many replicas a package asks for: what ``mmdeploy capacity --json`` reckoned from measured service times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from mmdeploy.packaging.subject import Subject

_HINT = "keep a plan: mmdeploy capacity RELEASE --qps N --p99-ms MS --keep-instances --json > plan.json"


@dataclass(frozen=True)
class Sizing:
    """A plan of capacity, as far as a package needs it.

    Attributes:
        path: Where it was read.
        model: Name of the ensemble.
        replicas: How many a load needs.
        cores: Of a replica.
        instances: Of each model in a replica.
        rate_per_s: The load: requests a second.
        p99_ms: What their 99th percentile may be.
    """

    path: Path
    model: str
    replicas: int
    cores: int
    instances: Mapping[str, int]
    rate_per_s: float
    p99_ms: float


def read_sizing(path: Path) -> Sizing:
    """Read what ``mmdeploy capacity --json`` wrote.

    Raises:
        UsageError: If it cannot be read, or is something else.
    """
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}", hint=_HINT) from error
    try:
        found = Sizing(
            path=path,
            model=str(fields["model"]),
            replicas=int(fields["replicas"]),
            cores=int(fields["cores_per_replica"]),
            instances={str(name): int(count) for name, count in fields["instances"].items()},
            rate_per_s=float(fields["wanted"]["rate_per_s"]),
            p99_ms=float(fields["wanted"]["p99_ms"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no plan of mmdeploy capacity", hint=_HINT) from error
    if found.replicas < 1 or found.cores < 1:
        raise UsageError(f"{path} is no plan of mmdeploy capacity: it has no replicas, or no cores", hint=_HINT)
    return found


def require_for(sizing: Sizing, subject: Subject) -> None:
    """Do nothing where a plan is one for a release.

    Raises:
        UsageError: If it is for another ensemble, or for other numbers of instances than the release has.
    """
    if sizing.model != subject.name:
        raise UsageError(
            f"{sizing.path} is a plan for {sizing.model}, and the release is one of {subject.name}", hint=_HINT
        )
    other = [
        f"{subject.instances.get(name, 0)} of {name} and not {count}"
        for name, count in sorted(sizing.instances.items())
        if subject.instances.get(name) != count
    ]
    if other:
        raise UsageError(
            f"{sizing.path} reckons with other instances than the release has: {', '.join(other)}",
            hint="build with those (serving.instance_group of the recipe), or reckon with --keep-instances",
        )
