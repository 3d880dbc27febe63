"""Other forms of a graph with Q/DQ pairs: the same numbers in another encoding, and some of its nodes in float.

Both are for engines that answer wrongly on the form that they were given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from mmdeploy.core import graph_passes

_UINT8_ZERO = 128
#: What makes a graph one in INT8.
_INTEGER = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv")
)
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def is_quantized(model: Any) -> bool:
    """Say whether a graph computes anything in INT8."""
    return any(node.op_type in _INTEGER for node in model.graph.node)


def uint8_from_int8(model: Any) -> bool:
    """Rewrite activations from INT8 around 0 to UINT8 around 128, in place: the same numbers, bit for bit.

    Returns:
        Whether it was done: not where there are none, or a zero point is anything else than a constant INT8 zero.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    weights = {weight.name: weight for weight in model.graph.initializer}
    encoded = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    pairs = [node for node in model.graph.node if _rounds(node, encoded)]
    names = {node.input[2] if len(node.input) > 2 else "" for node in pairs}
    zeros = {name: numpy_helper.to_array(weights[name]) for name in names if name in weights}
    if not names or any(name not in zeros or zeros[name].dtype != np.int8 or zeros[name].any() for name in names):
        return False
    for name, values in zeros.items():
        weights[name].CopyFrom(numpy_helper.from_array(np.full(values.shape, _UINT8_ZERO, np.uint8), name))
    for value in model.graph.value_info:
        if value.name in encoded:
            value.type.tensor_type.elem_type = TensorProto.UINT8
    return True


def quantized_nodes(model: Any) -> list[str]:
    """Return the names of the nodes that read an activation that was rounded, in order; weights alone do not count."""
    rounded = _pairs(model)
    return [node.name for node in _named(model) if not rounded.keys().isdisjoint(node.input)]


def products(model: Any) -> set[str]:
    """Return the names of the nodes that INT8 is for: those that multiply and add up."""
    return {node.name for node in model.graph.node if node.op_type in _PRODUCTS}


def leave_in_float(model: Any, names: Collection[str]) -> None:
    """Take out, in place, the pairs that round what some nodes read, and what they give to others that are float.

    Weights stay as they are stored.
    """
    rounded = _pairs(model)
    nodes = list(_named(model))
    left = [node for node in nodes if node.name in names]
    given = {name for node in left for name in node.output}
    still = {node.name for node in nodes if not rounded.keys().isdisjoint(node.input)} - set(names)
    for node in nodes:
        for index, name in enumerate(node.input):
            source = rounded.get(name)
            if source is not None and (node.name in names or (source in given and node.name not in still)):
                node.input[index] = source
    graph_passes.drop_unused(model)


def _rounds(node: Any, encoded: Collection[str]) -> bool:
    return node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and node.input[0] in encoded)


def _pairs(model: Any) -> dict[str, str]:
    """Return what is rounded by a pair, by the name of the rounded tensor."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return {
        node.output[0]: sources[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in sources
    }


def _named(model: Any) -> Iterator[Any]:
    """Give the nodes that are no part of a pair; those without a name get one."""
    for index, node in enumerate(model.graph.node):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            node.name = node.name or f"{node.op_type}_{index}"
            yield node
