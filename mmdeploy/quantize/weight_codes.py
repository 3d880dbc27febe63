"""Scales and codes of weights, a whole weight at a time where ONNX Runtime's quantizer takes one channel after another.

A CLIP tower has 84,000 output channels, and the quantizer's loops over them take half of the time in which it writes
the graph. It takes scales that are given, and leaves a float weight with a QuantizeLinear behind it where it is asked
to (``AddQDQPairToWeight``): so both are worked out here, by the same arithmetic, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdeploy.core.contracts import Array
from mmdeploy.quantize import graphs
from mmdeploy.quantize.selection import Selection

_FLOAT = 1  # TensorProto.FLOAT


def natural_scales(largest: Array) -> Array:
    """Return the scales that ONNX Runtime's quantizer would give to weights of this size, bit for bit."""
    import numpy as np

    scales = np.asarray(2.0 * np.atleast_1d(largest).astype(np.float64) / 254.0).astype(np.float32)
    return np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)


def entries(scales: Array, axis: int) -> list[dict[str, Any]]:
    """Return the entries of ``TensorQuantOverrides`` that give an INT8 weight a scale a channel."""
    import numpy as np
    from onnxruntime.quantization import QuantType

    kind = {"axis": axis, "quant_type": QuantType.QInt8, "zero_point": np.array(0, np.int8)}
    return [{**kind, "scale": scale} for scale in scales]


def with_scales(
    model: Any, selection: Selection, overrides: Mapping[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the overrides with the scales of every other weight that has one for each output channel."""
    import numpy as np
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in model.graph.initializer if weight.data_type == _FLOAT}
    chosen, found = set(selection.nodes), dict(overrides)
    for node in model.graph.node:
        name = node.input[1] if node.name in chosen and len(node.input) > 1 else ""
        if name not in weights or name in found or node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            continue
        axis, values = graphs.channel_axis(node), numpy_helper.to_array(weights[name])
        if values.size:
            others = tuple(one for one in range(values.ndim) if one != axis)
            largest = np.maximum(values.max(axis=others), -values.min(axis=others))
            found[name] = entries(natural_scales(largest), axis)
    return found


def fold(model: Any) -> None:
    """Write each weight that a QuantizeLinear reads as its codes, in place; names and order are the quantizer's."""
    graph = model.graph
    constants = {weight.name: weight for weight in graph.initializer}
    pairs = {
        node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in constants
    }
    codes = {
        f"{name}_scale": _codes(constants[name], constants[node.input[1]], constants[node.input[2]], _axis(node))
        for name, node in pairs.items()
    }
    renamed = {node.output[0]: f"{name}_quantized" for name, node in pairs.items()}
    nodes = [node for node in graph.node if node.output[0] not in renamed]
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in renamed:
            node.input[0] = renamed[node.input[0]]
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = []
    for weight in constants.values():
        kept += [weight] if weight.name in read else []
        kept += [codes[weight.name]] if weight.name in codes else []
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def _axis(node: Any) -> int | None:
    return next((one.i for one in node.attribute if one.name == "axis"), None)


def _codes(weight: Any, scale: Any, zero_point: Any, axis: int | None) -> Any:
    import numpy as np
    from onnx import numpy_helper

    values, zero = numpy_helper.to_array(weight), numpy_helper.to_array(zero_point)
    steps = numpy_helper.to_array(scale)
    if axis is not None:
        shape = [-1 if one == axis else 1 for one in range(values.ndim)]
        steps, zero = steps.reshape(shape), zero.reshape(shape)
    limits = np.iinfo(zero.dtype)
    rounded = values.astype(np.float32) / steps
    np.round(rounded, out=rounded)
    rounded += zero
    np.clip(rounded, limits.min, limits.max, out=rounded)
    return numpy_helper.from_array(rounded.astype(zero.dtype), f"{weight.name}_quantized")
