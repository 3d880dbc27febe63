"""Whose turn it is: which of the steps that wait may start now."""

from __future__ import annotations

from collections.abc import Container, Mapping

from mmdeploy.core.artifact import Artifact
from mmdeploy.planning.kinds import STARTING_ORDER
from mmdeploy.planning.steps import Decision


def admitted(ready: list[Decision], running: Mapping[str, Decision], jobs: int) -> list[Decision]:
    """Return what to start now: steps that measure time run alone, when nothing else can be started any more."""
    if any(one.step.exclusive for one in running.values()):
        return []
    shared = [one for one in ready if not one.step.exclusive]
    if shared or running:
        return shared[: jobs - len(running)]
    return ready[:1]


def startable(
    waiting: list[Decision], artifacts: Mapping[str, Artifact], running: Container[str], first: Container[str] = ()
) -> list[Decision]:
    """Return the steps whose inputs are there, one of each key and none that runs: twins share a result.

    Those of ``first``, by id, lead: what they tell may end the build.
    """
    ready: dict[str, Decision] = {}
    for one in waiting:
        if one.step.key not in running and all(need in artifacts for need in one.step.needs):
            ready.setdefault(one.step.key, one)
    return sorted(ready.values(), key=lambda one: (one.step.id not in first, STARTING_ORDER[one.step.kind]))
