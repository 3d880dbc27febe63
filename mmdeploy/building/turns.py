"""Whose turn it is: which of the steps that wait may start now."""

from __future__ import annotations

from collections.abc import Container, Mapping

from mmdeploy.building.model_keeper import works_with_model
from mmdeploy.core.artifact import Artifact
from mmdeploy.planning.kinds import EXPORT, QUANTIZE, STARTING_ORDER
from mmdeploy.planning.steps import Decision, Step


def admitted(ready: list[Decision], running: Mapping[str, Decision], jobs: int) -> list[Decision]:
    """Return what to start now: steps that measure time run alone, when nothing else can be started any more."""
    if any(one.step.exclusive for one in running.values()):
        return []
    shared = [one for one in ready if not one.step.exclusive]
    if shared or running:
        return shared[: jobs - len(running)]
    return ready[:1]


def startable(
    waiting: list[Decision],
    artifacts: Mapping[str, Artifact],
    running: Mapping[str, Decision],
    first: Container[str] = (),
) -> list[Decision]:
    """Return the steps whose inputs are there, one of each key and none that runs: twins share a result.

    Those of ``first``, by id, lead: what they tell may end the build. The others come as `STARTING_ORDER` has them,
    so that the model can be let go. While another step works with it it is held anyway, and an export that no
    quantization waits for, such as that of a fusion head, comes after the quantizations.
    """
    ready: dict[str, Decision] = {}
    for one in waiting:
        if one.step.key not in running and all(need in artifacts for need in one.step.needs):
            ready.setdefault(one.step.key, one)
    held = any(works_with_model(one.step) for one in running.values())
    quantized = {need for one in waiting if one.step.sort is QUANTIZE for need in one.step.needs}

    def place(one: Decision) -> tuple[bool, int]:
        later = held and one.step.sort is EXPORT and one.step.id not in quantized
        return one.step.id not in first, STARTING_ORDER[QUANTIZE.name if later else one.step.kind] * 2 + later

    return sorted(ready.values(), key=place)


def next_with_model(
    waiting: list[Decision], artifacts: Mapping[str, Artifact], running: Mapping[str, Decision]
) -> Step | None:
    """Return a step that works with the model and waits for nothing but what runs; None where there is none.

    It will start before any step that measures time does, which loading the model would disturb.
    """
    there = {*artifacts, *(one.step.id for one in running.values())}
    ahead = (one.step for one in waiting if works_with_model(one.step) and there.issuperset(one.step.needs))
    return next(ahead, None)
