"""Holds label files against outputs as soon as their shapes are known, long before anything is served."""

from __future__ import annotations

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import UsageError
from mmdeploy.recipe.label_files import count_problem, names_in
from mmdeploy.recipe.schema import Recipe


def require_label_counts(recipe: Recipe, component: str, artifact: Artifact) -> None:
    """Do nothing where a component's outputs have as many values as their label files have names.

    Raises:
        UsageError: Naming the file and both numbers.
    """
    if component not in recipe.components or artifact.format != "onnx":
        return
    wires = recipe.components[component].outputs
    for spec in artifact.outputs:
        tensor = wires[spec.name].tensor if spec.name in wires else None
        labels = recipe.outputs[tensor].labels if tensor in recipe.outputs else None
        if labels is not None and (problem := count_problem(str(labels), names_in(recipe.root / labels), spec.shape)):
            raise UsageError(
                f"{recipe.origin.path} outputs.{tensor}.labels: {problem}", hint="one class name a line, in their order"
            )
