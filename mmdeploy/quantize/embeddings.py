"""Embedding tables as INT8, one scale a row: weights that are looked up and never multiplied by an activation.

What it does to the numbers: each row of the table is rounded to 255 codes up to its own largest value, about 45 dB, and
back to FP32 when it is looked up; what reads it stays as it is. A text encoder's file is mostly this table. No time is
lost or won: looking up moves a quarter of the bytes, and one multiplication comes behind.

TensorRT looks nothing up in INT8 without Q/DQ pairs, so tables stay in floating point there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mmdeploy.core import graph_passes
from mmdeploy.core.contracts import StepContext
from mmdeploy.core.target import Target
from mmdeploy.quantize import graphs
from mmdeploy.quantize.scheme import NodeChoice
from mmdeploy.quantize.set_aside import compact

#: Smaller tables are not worth two nodes more.
_FEWEST_NUMBERS = 10_000
_LARGEST_CODE = 127
#: Noise that tables in INT8 may add at the component's outputs where ``auto`` decides.
_MOST_LOST_DB = 1.0
#: What they may leave in any case: by then they are what is heard of the noise, and it is small.
_QUIET_DB = 35.0


@dataclass(frozen=True)
class Embeddings:
    """What a quantize step says of embedding tables in its metadata.

    Attributes:
        int8_tables: Names of the tables that are INT8.
        tables_because: Why they are, or are not; empty where there is none.
        tables_lost_db: Noise that they add at the component's outputs; None where that was not judged.
    """

    int8_tables: tuple[str, ...] = ()
    tables_because: str = ""
    tables_lost_db: float | None = None


def find(model: Any, options: NodeChoice) -> list[str]:
    """Return the tables that can be INT8: large matrices that are looked up by rows, and read by nothing else."""
    graph = model.graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer if weight.data_type == 1}
    readers = graphs.readers(graph)
    found = []
    for name, shape in shapes.items():
        nodes = readers.get(name, [])
        looked_up = nodes and all(node is not None and _looks_up(node, name, options) for node in nodes)
        if looked_up and len(shape) == 2 and shape[0] * shape[1] >= _FEWEST_NUMBERS:
            found.append(name)
    return found


def _looks_up(node: Any, table: str, options: NodeChoice) -> bool:
    if node.op_type != "Gather" or node.input[0] != table or "Gather" in options.exclude_op_types:
        return False
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return axis == 0 and not any(fnmatchcase(node.name, pattern) for pattern in options.exclude)


def settle(
    model: Any,
    options: NodeChoice,
    context: StepContext,
    judge: Callable[[Any], float] | None,
    *,
    least_db: float = 0.0,
) -> tuple[Any, Embeddings]:
    """Write tables as INT8 where the options say so, or where it costs next to nothing at the outputs.

    Args:
        model: The quantized graph; left as it is.
        options: Of the pass.
        context: Of the step.
        judge: Gives the SQNR of a graph's answers in dB; None where there is nothing to judge on.
        least_db: What must be left with tables in INT8.

    Returns:
        The graph that ships, and what was done.
    """
    tables = find(model, options) if options.embeddings != "float" else []
    if not tables:
        return model, Embeddings()
    if context.target in (Target.TENSORRT, Target.TENSORRT_RTX):
        return model, Embeddings(tables_because="TensorRT looks nothing up in INT8")
    written = with_int8(model, tables)
    if options.embeddings == "int8":
        return written, Embeddings(tuple(tables), "asked for")
    if judge is None:
        return model, Embeddings(tables_because="there is nothing to judge them on")
    left = judge(written)
    lost = judge(model) - left
    if (lost > _MOST_LOST_DB and left < _QUIET_DB) or left < least_db:
        return model, Embeddings((), f"in INT8 they cost {lost:.1f} dB at the component's outputs", lost)
    return written, Embeddings(tuple(tables), f"they cost {max(lost, 0.0):.1f} dB at the component's outputs", lost)


def with_int8(model: Any, tables: list[str]) -> Any:
    """Return a copy of a graph in which tables are INT8."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    copied = compact(model, without=tables)
    graph = copied.graph
    replaced = {name: _quantized(weights[name]) for name in tables}
    graph.initializer.extend(tensor for pair in replaced.values() for tensor in pair)
    nodes = []
    for node in graph.node:
        nodes.extend(_looked_up(node, replaced) if node.input and node.input[0] in replaced else [node])
    del graph.node[:]
    graph.node.extend(nodes)
    graph_passes.drop_unused(copied)
    return copied


def _quantized(weight: Any) -> tuple[Any, Any]:
    """Return the codes of a table [rows, width], and its scales [rows, 1]."""
    import numpy as np
    from onnx import numpy_helper

    table = numpy_helper.to_array(weight)
    largest = np.maximum(table.max(axis=1, keepdims=True), -table.min(axis=1, keepdims=True))
    scale = largest / np.float32(_LARGEST_CODE)
    rounded = table / np.where(scale > 0, scale, 1)
    codes = np.rint(rounded, out=rounded).astype(np.int8)
    return (
        numpy_helper.from_array(codes, f"{weight.name}_int8"),
        numpy_helper.from_array(scale.astype(np.float32), f"{weight.name}_int8_scale"),
    )


def _looked_up(node: Any, replaced: Mapping[str, tuple[Any, Any]]) -> list[Any]:
    from onnx import TensorProto, helper

    codes, scale = replaced[node.input[0]]
    output, index = node.output[0], node.input[1]
    return [
        helper.make_node("Gather", [codes.name, index], [f"{output}_codes"], node.name, axis=0),
        helper.make_node("Gather", [scale.name, index], [f"{output}_scale"], f"{node.name}/scale", axis=0),
        helper.make_node("Cast", [f"{output}_codes"], [f"{output}_rounded"], f"{node.name}/cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{output}_rounded", f"{output}_scale"], [output], f"{node.name}/dequantize"),
    ]
