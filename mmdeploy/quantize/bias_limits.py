"""The smallest scale that a weight may have beside its bias: one under which the bias still fits into INT32.

INT8 kernels hold a bias as INT32 at the product of the scales of input and weight. Where the weights of an output are
next to nothing and its bias is not, as in a channel that has died, that number overflows: the output is garbage. ONNX
Runtime does so by itself when it loads a graph whose biases are in float. A larger scale costs nothing there: what the
weights then lose is below the last bit of the bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmdeploy.core.contracts import Array, Encoding
from mmdeploy.quantize import graphs
from mmdeploy.quantize.selection import Selection
from mmdeploy.quantize.weight_codes import natural_scales

#: Half of what INT32 holds: scales are rounded on the way.
_LARGEST_BIAS = 2.0**30
#: Below it the product of two scales is no normal number in FP32.
_SMALLEST_PRODUCT = 1e-35


def smallest_scales(
    model: Any, selection: Selection, ranges: Mapping[str, tuple[float, float]], encoding: Encoding
) -> dict[str, Array]:
    """Return the smallest scale of each output channel [channels] by weight, for those with a constant bias.

    Args:
        model: The float graph.
        selection: Nodes to quantize.
        ranges: Of their inputs.
        encoding: How those are written.
    """
    import numpy as np

    found: dict[str, Array] = {}
    for node, weight, bias in _biased(model, selection):
        limits = ranges.get(node.input[0])
        if limits is None:
            continue
        step = _step(limits, encoding)
        if step > 0:
            needed = np.maximum(np.abs(bias.astype(np.float64)) / _LARGEST_BIAS, _SMALLEST_PRODUCT) / step
            found[weight] = np.maximum(found.get(weight, 0.0), needed)
    return found


def raised(
    model: Any,
    selection: Selection,
    smallest: Mapping[str, Array],
    overrides: Mapping[str, list[dict[str, Any]]],
    *,
    per_channel: bool,
) -> dict[str, list[dict[str, Any]]]:
    """Return entries of ``TensorQuantOverrides`` under which no weight has a scale below its smallest.

    Args:
        model: The float graph.
        selection: Nodes to quantize.
        smallest: Of `smallest_scales`.
        overrides: Entries that there are already: with scales, which are raised where that changes nothing but
            weights next to nothing, or with the order to use a single one.
        per_channel: Whether weights have one scale for each output channel where no entry says otherwise.
    """
    import numpy as np
    from onnx import numpy_helper
    from onnxruntime.quantization import QuantType

    weights = {weight.name: weight for weight in model.graph.initializer}
    axes = {node.input[1]: graphs.channel_axis(node) for node in _nodes(model, selection) if len(node.input) > 1}
    result = dict(overrides)
    for name, least in smallest.items():
        entries = overrides.get(name, [])
        single = (len(entries) == 1 and "axis" not in entries[0]) or not (entries or per_channel)
        values = np.abs(np.moveaxis(numpy_helper.to_array(weights[name]), axes[name], 0).reshape(least.size, -1))
        scales = natural_scales(values.max() if single else values.max(axis=1, initial=0.0))
        wanted = np.float32(least.max()) if single else least.astype(np.float32)
        if entries and "scale" in entries[0]:
            given = np.array([entry["scale"] for entry in entries], np.float32).reshape(-1)
            wanted = np.where(scales <= wanted, wanted, given)  # larger weights would change with their scale
            scales = given
        if not (scales < wanted).any():
            continue
        higher = np.maximum(scales, wanted)
        kind: dict[str, Any] = {"quant_type": QuantType.QInt8, "zero_point": np.array(0, np.int8)}
        if single:
            result[name] = [{**kind, "scale": higher.reshape(())}]
        else:
            result[name] = [{**kind, "axis": axes[name], "scale": scale} for scale in higher]
    return result


def _step(limits: tuple[float, float], encoding: Encoding) -> float:
    """Return the scale of an activation."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if encoding is Encoding.UINT8_ASYMMETRIC:
        return (high - low) / 255.0
    return max(-low, high) / 127.0


def _nodes(model: Any, selection: Selection) -> Iterator[Any]:
    chosen = set(selection.nodes)
    return (node for node in model.graph.node if node.name in chosen)


def _biased(model: Any, selection: Selection) -> Iterator[tuple[Any, str, Array]]:
    """Give each quantized node with a constant weight and bias: the node, its weight, and the bias [channels]."""
    from onnx import numpy_helper

    constants = {weight.name: weight for weight in model.graph.initializer}
    readers = graphs.readers(model.graph)
    for node in _nodes(model, selection):
        if len(node.input) < 2 or node.input[1] not in constants:
            continue
        dims = constants[node.input[1]].dims
        if node.op_type == "MatMul":
            added = [one for one in readers.get(node.output[0], []) if one is not None and one.op_type == "Add"]
            names = [name for one in added for name in one.input if name in constants]
            channels = dims[-1]
        else:
            names = [name for name in node.input[2:3] if name in constants]
            channels = dims[graphs.channel_axis(node)]
        for name in names:
            values = numpy_helper.to_array(constants[name])
            if values.size == channels and values.dtype.kind == "f":
                yield node, node.input[1], values.reshape(-1)
