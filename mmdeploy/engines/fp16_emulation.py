"""Say in FP32 what an FP16 graph computes, for runtimes that would not do it in FP16.

ONNX Runtime's CPU provider runs an FP16 graph in FP32 wherever it has no FP16 kernel, without rounding and without
overflow: a graph that overflows on a GPU answers there as if nothing were wrong. So what stands in for an FP16
engine is this graph: each operator in FP32, its result rounded to FP16 by a pair of casts that ONNX Runtime keeps.
That is how TensorRT computes (FP16 kernels accumulate in FP32) except that it rounds less often, where it fuses.
"""

from __future__ import annotations

from typing import Any

#: Operators that only move or choose values: what was rounded stays so.
_MOVES = frozenset(
    (
        "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Concat", "Gather",
        "GatherElements", "GatherND", "Expand", "Tile", "Pad", "Where", "DepthToSpace", "SpaceToDepth", "MaxPool",
        "Relu", "Neg", "Abs", "Max", "Min", "Clip", "Constant",
    )
)  # fmt: skip


def emulate_fp16(model: Any) -> Any:
    """Return the FP32 graph that rounds to FP16 wherever ``model`` computes in FP16; inputs and outputs keep types.

    Args:
        model: An ``onnx.ModelProto`` with its weights and inferred types; it is changed.
    """
    import onnx

    graph = model.graph
    halves = _half_tensors(graph)
    _widen_tensors(graph)
    outputs = halves & {tensor.name for tensor in graph.output}
    widened = {tensor.name: f"{tensor.name}_fp32" for tensor in graph.input if tensor.name in halves}
    nodes = [_cast(name, wide, onnx.TensorProto.FLOAT) for name, wide in widened.items()]
    widened |= {name: f"{name}_fp32" for name in outputs}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = widened.get(name, name)
        nodes.append(node)
        if node.op_type == "Cast" and node.output[0] in halves:
            next(attribute for attribute in node.attribute if attribute.name == "to").i = onnx.TensorProto.FLOAT
        for index, name in enumerate(node.output):
            if name in outputs or (name in halves and node.op_type not in _MOVES):
                node.output[index] = f"{name}_exact"
                nodes += _rounding(f"{name}_exact", name, widened.get(name))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # their types are others now, and nobody who runs the graph needs them
    return model


def _half_tensors(graph: Any) -> frozenset[str]:
    from onnx import TensorProto

    infos = (*graph.value_info, *graph.input, *graph.output)
    named = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT16}
    weights = {tensor.name for tensor in graph.initializer}
    return frozenset(named - weights)


def _widen_tensors(graph: Any) -> None:
    """Turn FP16 weights and constants into FP32 ones of the same values."""
    import onnx

    constants = [attribute.t for node in graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            values = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _rounding(exact: str, name: str, widened: str | None) -> list[Any]:
    """Return the casts that round ``exact`` to FP16 and widen it again, as ``name`` or, an FP16 output, ``widened``."""
    from onnx import TensorProto

    half, wide = (name, widened) if widened else (f"{name}_fp16", name)
    return [_cast(exact, half, TensorProto.FLOAT16), _cast(half, wide, TensorProto.FLOAT)]


def _cast(source: str, target: str, to: int) -> Any:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=to)
