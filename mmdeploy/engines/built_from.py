"""What every engine's artifact says of the graph that it was built from, and what its tool warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core import facts
from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.errors import EngineError


@dataclass(frozen=True)
class BuiltFrom:
    """The graph behind an engine.

    Attributes:
        graph: Name of an ONNX file beside the engine that answers as it does: what lies downstream is calibrated with
            it, and where the engine cannot run it is served through ONNX Runtime in its stead.
    """

    graph: str


@dataclass(frozen=True)
class Warned:
    """What the tool that made an artifact warned of; reports count it."""

    warnings: tuple[str, ...] = ()


def graph_path(artifact: Artifact) -> Path:
    """Return the ONNX file of a graph, or the one that an engine was built from.

    Raises:
        StepError: If an engine names none.
    """
    if artifact.format == "onnx":
        return artifact.path
    return artifact.path.with_name(facts.read(BuiltFrom, artifact).graph)


def check_tensors(
    component: str,
    told: Artifact,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    whose: str = "the graph's",
    hint: str = "the graph was changed after it was exported: build again with an empty store",
) -> None:
    """Refuse what an engine made of a graph where its tensors are not those that the ensemble will send and read.

    Args:
        component: Name of the component.
        told: The artifact that the engine is built from.
        inputs: Inputs that the engine found; names and types are compared.
        outputs: Outputs that it found.
        whose: What they are of, for the message.
        hint: What to do.

    Raises:
        EngineError: If the names or types on either side differ.
    """
    for side, before, found in (("inputs", told.inputs, inputs), ("outputs", told.outputs, outputs)):
        if {(spec.name, spec.dtype) for spec in before} != {(spec.name, spec.dtype) for spec in found}:
            raise EngineError(
                f"{component}: {whose} {side} are {_listed(found)}, the step before said {_listed(before)}",
                hint=hint,
            )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs))
