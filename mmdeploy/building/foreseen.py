"""What the number of evaluation samples cannot show, told as soon as it is known: before time is spent."""

from __future__ import annotations

from collections.abc import Iterable

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import GateResult
from mmdeploy.core.facts import find
from mmdeploy.data.contents import SetSize
from mmdeploy.gates import accuracy
from mmdeploy.gates.foreseen import foreseen
from mmdeploy.planning.steps import DATA_SETS, Step
from mmdeploy.recipe.schema import Recipe


def foreseen_notes(recipe: Recipe, step: Step, artifact: Artifact) -> list[str]:
    """Return a sentence for each accuracy gate that a set of samples is too small for; of the evaluation set alone."""
    size = find(SetSize, artifact.metadata)
    if step.id != DATA_SETS["evaluation"] or size is None:
        return []
    found = (foreseen(gate, size.samples) for gate in recipe.gates if isinstance(gate, accuracy.Options))
    return [f"{told}." for told in found if told is not None]


def told_again(recipe: Recipe, results: Iterable[GateResult]) -> set[str]:
    """Return the sentences of `foreseen_notes` in whose place gates say what they measured."""
    warned = {one.details.get("source"): one.details.get("samples") for one in results if "warning" in one.details}
    gates = [gate for gate in recipe.gates if isinstance(gate, accuracy.Options)]
    counted = [(gate, count) for gate in gates if isinstance(count := warned.get(gate.metric), int)]
    return {f"{foreseen(gate, count)}." for gate, count in counted}
