"""What there is to choose from: built engines, and what people call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmdeploy import engines
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import MethodOptions, Variant, method_of

GraphKind = Literal["float", "quantized"]
#: Option fields that a label says in its own words.
_SAID_OTHERWISE = ("method", "precision", "encoding")
_THREADS = ("threads", "intra_op_threads")


@dataclass(frozen=True)
class Candidate:
    """An engine that could ship.

    Attributes:
        label: What people call it, such as ``onnxruntime INT8 uint8_asymmetric``; unique in a choice.
        artifact: The built engine.
        engine: The engine's options.
        graph: Whether it was built from a graph with Q/DQ pairs.
        compressed: Whether the component was pruned or quantized on the way.
        simplicity: Rank: of two that are equally fast, the one that is not compressed ships, and of two that both are
            or both are not, the one of lower rank. Engines in the order of their dict, the variants of each in its own.
        original: Whether it is the FP32 export in ONNX Runtime with all of its optimizations, as the ensemble around a
            component is run in process: it is scored there.
    """

    label: str
    artifact: Artifact
    engine: MethodOptions
    graph: GraphKind
    compressed: bool
    simplicity: int
    original: bool = False


def label(variant: Variant, made: str | None = None) -> str:
    """Return a short name that tells variants apart, such as ``openvino INT8 int8_symmetric, BF16``.

    Args:
        variant: The variant.
        made: What its float graph is where that is not the original: ``pruned``, ``trained`` or ``student``.
    """
    options = variant.options
    fields = options.model_dump(mode="json")
    precision = str(fields.get("precision", "fp32"))
    if variant.graph == "quantized":
        encoding = engines.METHODS.of(options).encoding(options)
        parts = [f"INT8 {encoding}", *([precision.upper()] if precision != "fp32" else [])]
    else:
        parts = [precision.upper()]
    plain = options.model_dump(mode="json", exclude_defaults=True)
    changed = {name: value for name, value in plain.items() if name not in _SAID_OTHERWISE}
    parts += [f"{value} threads" if name in _THREADS else f"{name} {value}" for name, value in changed.items()]
    return f"{method_of(options)} {', '.join([*parts, *([made] if made else [])])}"


def slug(text: str) -> str:
    """Return a label as part of a step's id, such as ``openvino-int8-int8_symmetric-bf16``."""
    words = "".join(letter if letter.isalnum() or letter in "_." else " " for letter in text.lower())
    return "-".join(words.split())
