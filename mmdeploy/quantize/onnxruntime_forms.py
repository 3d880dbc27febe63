"""Forms of the same computation that ONNX Runtime's CPU provider runs in INT8, where it would leave others in float.

It decides by pattern, before it knows what is quantized. Measured with ONNX Runtime 1.31 on an MLP of 768 and 3072
at batch 50, one thread, FP32 being 1:

* ``MatMul`` + ``Add`` of two matrices becomes a ``Gemm`` with a float bias, which stays in float: 0.3. As a ``Gemm``
  with an INT32 bias it is 6.0.
* A product whose only reader is a ``Relu`` or ``Clip`` stays in float unless the next ``QuantizeLinear`` does the
  clipping by itself (core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc, `GetQDQSelection`): 1.0 with
  symmetric ranges. With ``Max`` and ``Min`` in its place it is 5.4.

Both give the numbers that the graph gave before, but for the rounding of the bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmdeploy.quantize import graphs

_CLIPS = ("Relu", "Clip")


def join_biases(model: Any, chosen: Iterable[str]) -> None:
    """Write ``MatMul`` + ``Add`` of a matrix, a constant matrix and a constant bias as one ``Gemm``, in place.

    The Gemm has the name of the MatMul.

    Args:
        model: A float graph.
        chosen: Names of the nodes that are quantized; others are left.
    """
    from onnx import helper

    graph = model.graph
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    ranks = _ranks(model)
    readers = graphs.readers(graph)
    names = set(chosen)
    for node in [node for node in graph.node if node.op_type == "MatMul" and node.name in names]:
        left, right = node.input
        following = readers.get(node.output[0], [])
        if ranks.get(left) != 2 or len(weights.get(right, ())) != 2 or left in weights or len(following) != 1:
            continue
        add = following[0]
        if add is None or add.op_type != "Add":
            continue
        bias = next((name for name in add.input if name != node.output[0]), "")
        if weights.get(bias) != (weights[right][1],):
            continue
        gemm = helper.make_node("Gemm", [left, right, bias], [add.output[0]], node.name)
        node.CopyFrom(gemm)
        graph.node.remove(add)


def shield_clips(model: Any, chosen: Iterable[str]) -> None:
    """Write a ``Relu`` or ``Clip`` that alone reads a quantized product as ``Max`` and ``Min``, in place.

    One that the next QuantizeLinear makes redundant is left: ONNX Runtime drops it.

    Args:
        model: A graph with Q/DQ pairs.
        chosen: Names of the nodes that are quantized.
    """
    graph = model.graph
    names = set(chosen)
    readers = graphs.readers(graph)
    constants = _constants(graph)
    for node in [node for node in graph.node if node.name in names]:
        following = readers.get(node.output[0], [])
        if len(following) != 1 or following[0] is None or following[0].op_type not in _CLIPS:
            continue
        clip = following[0]
        bounds = _bounds(clip, constants)
        after = readers.get(clip.output[0], [])
        if bounds is None or len(after) != 1 or after[0] is None or _clips_itself(after[0], bounds, constants):
            continue
        _replace(graph, clip, bounds)


def _ranks(model: Any) -> dict[str, int]:
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _constants(graph: Any) -> Mapping[str, Any]:
    return {weight.name: weight for weight in graph.initializer}


def _bounds(clip: Any, constants: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the limits of a Relu or Clip; None when they are computed."""
    from onnx import numpy_helper

    if clip.op_type == "Relu":
        return 0.0, float("inf")
    bounds = [-float("inf"), float("inf")]
    for index, name in enumerate(clip.input[1:3]):
        if name and name not in constants:
            return None
        if name:
            bounds[index] = float(numpy_helper.to_array(constants[name]).reshape(()))
    return bounds[0], bounds[1]


def _clips_itself(node: Any, bounds: tuple[float, float], constants: Mapping[str, Any]) -> bool:
    """Say whether a QuantizeLinear of unsigned codes can represent nothing outside the bounds."""
    import numpy as np
    from onnx import numpy_helper

    if node.op_type != "QuantizeLinear":
        return False
    scale = float(numpy_helper.to_array(constants[node.input[1]]))
    zero = numpy_helper.to_array(constants[node.input[2]])
    codes = np.iinfo(zero.dtype)
    return scale * (codes.min - int(zero)) >= bounds[0] and scale * (codes.max - int(zero)) <= bounds[1]


def _replace(graph: Any, clip: Any, bounds: tuple[float, float]) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    limits = [(op, bound) for op, bound in zip(("Max", "Min"), bounds, strict=True) if np.isfinite(bound)]
    source, nodes = clip.input[0], []
    for index, (op, bound) in enumerate(limits):
        target = clip.output[0] if index == len(limits) - 1 else f"{clip.output[0]}_{op}"
        constant = f"{clip.output[0]}_{op}_bound"
        graph.initializer.append(numpy_helper.from_array(np.array(bound, np.float32), constant))
        nodes.append(helper.make_node(op, [source, constant], [target], f"{clip.name}/{op}"))
        source = target
    if not nodes:
        return
    position = next(index for index, node in enumerate(graph.node) if node is clip or node == clip)
    graph.node.remove(clip)
    for offset, node in enumerate(nodes):
        graph.node.insert(position + offset, node)
