"""FP64 inside a graph becomes FP32: what was fitted in NumPy is a buffer of doubles, and no fast kernel takes those.

Engines compute FP64 slowly (ONNX Runtime) or not at all (TensorRT), and INT8 is written for FP32. Whether the numbers
bear it is for the comparison with PyTorch to say. A graph that takes or gives FP64 keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdeploy.core import graph_passes

#: Attributes by which a node names the type that it gives, besides Cast's ``to``.
_TYPE_ATTRIBUTES = ("to", "dtype")


def holds_doubles(proto: Any) -> bool:
    """Say whether a graph computes in FP64 and neither takes nor gives it."""
    from onnx import TensorProto

    main = proto.graph
    if any(value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in (*main.input, *main.output)):
        return False
    return any(
        tensor.data_type == TensorProto.DOUBLE for graph in graph_passes.with_bodies(main) for tensor in _tensors(graph)
    ) or any(
        attribute.i == TensorProto.DOUBLE
        for graph in graph_passes.with_bodies(main)
        for attribute in _named_types(graph)
    )


def narrow(proto: Any) -> None:
    """Turn FP64 into FP32 in place, and drop the casts that then change nothing."""
    from onnx import TensorProto, numpy_helper

    for graph in graph_passes.with_bodies(proto.graph):
        for tensor in _tensors(graph):
            if tensor.data_type == TensorProto.DOUBLE:
                name = tensor.name
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), name))
        for attribute in _named_types(graph):
            if attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
        for value in graph.value_info:
            if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    _drop_casts(proto.graph)


def _drop_casts(graph: Any) -> None:
    from onnx import TensorProto

    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    given, inner = {value.name for value in graph.output}, _names_inside(graph)
    same: dict[str, str] = {}
    for node in list(graph.node):
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        named = [one.i for one in node.attribute if one.name == "to"]
        without_effect = node.op_type == "Cast" and named == [TensorProto.FLOAT] == [types.get(node.input[0])]
        if without_effect and not {*node.output} & (given | inner):
            same[node.output[0]] = node.input[0]
            graph.node.remove(node)


def _names_inside(graph: Any) -> set[str]:
    """Return what the bodies of control flow read; they see the names around them."""
    bodies = [one for one in graph_passes.with_bodies(graph) if one is not graph]
    return {name for body in bodies for node in body.node for name in node.input} | {
        value.name for body in bodies for value in body.output
    }


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _named_types(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield from (attribute for attribute in node.attribute if attribute.name in _TYPE_ATTRIBUTES)
