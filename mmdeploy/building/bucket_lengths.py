"""Holds outputs against buckets as soon as a component is exported, long before anything is staged."""

from __future__ import annotations

from dataclasses import replace

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import UsageError
from mmdeploy.recipe.schema import Recipe
from mmdeploy.triton.buckets import UNCUT_HINT, uncut


def require_cut_back(recipe: Recipe, component: str, artifact: Artifact) -> None:
    """Do nothing where what clients see of a component can be cut back to the length that they sent.

    Raises:
        UsageError: Naming the bucket and the output.
    """
    buckets = {name: size.bucket for name, size in recipe.sizes.items() if size.bucket is not None}
    if not buckets or component not in recipe.components or artifact.format != "onnx":
        return
    shown = {*recipe.outputs, *(tensor for step in recipe.postprocess.values() for tensor in step.inputs.values())}
    wires = recipe.components[component].outputs
    for spec in artifact.outputs:
        tensor = wires[spec.name].tensor if spec.name in wires else None
        if tensor not in shown:
            continue
        for name, lengths in buckets.items():
            if problem := uncut(replace(spec, name=tensor), {name}):
                where = f"{recipe.origin.path} sizes.{name}.bucket: {list(lengths)}"
                raise UsageError(f"{where}, but {problem}", hint=UNCUT_HINT)
