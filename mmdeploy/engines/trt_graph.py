"""Make an ONNX graph fit for TensorRT's parser without changing what it computes or what is sent to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import EngineError

#: Types that a TensorRT network's inputs and outputs can have, of those that Triton serves.
NETWORK_DTYPES = ("FP32", "FP16", "INT8", "UINT8", "INT32", "INT64", "BOOL")


def check_network_dtypes(specs: Iterable[TensorSpec], component: str) -> None:
    """Refuse inputs and outputs that TensorRT has no type for, or would silently narrow (FP64).

    Raises:
        EngineError: Naming the first such tensor.
    """
    for spec in specs:
        if spec.dtype not in NETWORK_DTYPES:
            raise EngineError(
                f"{component}: TensorRT networks have no {spec.dtype} tensors, and {spec.name!r} is one",
                hint=f"cast it in the model; accepted: {', '.join(NETWORK_DTYPES)}",
            )


def cast_uint8_inputs(model: Any) -> tuple[str, ...]:
    """Let every UINT8 input enter through a ``Cast``, and return the names of the inputs that were changed.

    TensorRT takes UINT8 network inputs only where a Cast reads them first: nothing else has UINT8 kernels,
    not even Reshape. A new Cast to INT32 holds the same values, so what moves data works on them as before;
    the input itself stays UINT8. Arithmetic on UINT8 wraps around and cannot be moved: the parser refuses the
    types that result.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    changed = []
    for tensor in graph.input:
        if tensor.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        readers = [node for node in graph.node if tensor.name in node.input and node.op_type != "Cast"]
        if not readers:
            continue
        as_int32 = f"{tensor.name}_int32"
        for node in readers:
            for index, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[index] = as_int32
        cast = helper.make_node("Cast", [tensor.name], [as_int32], name=as_int32, to=TensorProto.INT32)
        graph.node.insert(0, cast)
        changed.append(tensor.name)
    if changed:
        del graph.value_info[:]  # those that said UINT8 are wrong now
    return tuple(changed)


def node_label(model: Any, index: int, name: str, operator: str) -> str:
    """Name a node in words that lead to it: its name where it has one, else what it writes."""
    nodes: Sequence[Any] = model.graph.node
    if not 0 <= index < len(nodes):
        return f"operator {operator}" if operator else "an input or output of the graph"
    node = nodes[index]
    return f"operator {operator or node.op_type} (node {name or index!r}, writing {', '.join(node.output)})"
