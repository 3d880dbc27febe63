"""Weight scales that are given, such as those that training has found, as overrides of ONNX Runtime's quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import QuantizeError, did_you_mean
from mmdeploy.quantize import graphs
from mmdeploy.quantize.selection import Selection


def overrides(
    model: Any, selection: Selection, scales: Mapping[str, Array], single: set[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return entries of ``TensorQuantOverrides`` that have the weights written with exactly these scales.

    Args:
        model: The float graph.
        selection: Nodes to quantize.
        scales: By name of a weight, or of the node that multiplies by it: one scale, or one for each output
            channel [channels]. A scale of zero is taken as 1, since all weights under it must be zero.
        single: Weights that can have one scale only.

    Raises:
        QuantizeError: When a name is neither, or scales do not fit their weight.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    owners = _owners(model, selection, weights)
    found: dict[str, Array] = {}
    for key, given in scales.items():
        if key not in owners:
            raise QuantizeError(
                f"scales are given for {key!r}, which is neither a quantized node with a weight nor such a weight",
                hint=did_you_mean(key, owners),
            )
        name, axis = owners[key]
        scale = _checked(key, given, weights[name], axis)
        if scale.ndim and name in single:
            raise QuantizeError(f"{key}: ONNX Runtime takes one scale only for the weight {name!r}, not one a channel")
        if name in found and not _equal(found[name], scale):
            raise QuantizeError(f"{key}: its weight {name!r} is shared, and other scales are given for it elsewhere")
        found[name] = scale
    axes = dict(owners.values())
    return {name: _entries(scale, axes[name]) for name, scale in found.items()}


def check(model: Any, written: Mapping[str, list[dict[str, Any]]]) -> None:
    """Make sure that a graph has the scales that it was to be written with.

    ONNX Runtime's quantizer enlarges a scale where an INT32 bias would overflow.

    Args:
        model: A graph with Q/DQ pairs.
        written: What `overrides` gave.

    Raises:
        QuantizeError: When a scale is another one.
    """
    import numpy as np
    from onnx import numpy_helper

    constants = {weight.name: weight for weight in model.graph.initializer}
    for name, entries in written.items():
        if "scale" not in entries[0]:
            continue
        wanted = np.array([entry["scale"] for entry in entries], np.float32)
        if not np.array_equal(numpy_helper.to_array(constants[f"{name}_scale"]).reshape(-1), wanted.reshape(-1)):
            raise QuantizeError(
                f"the weight {name!r} cannot have the scales given for it: so small that an INT32 bias overflows",
                hint="write biases in float (bias: float)",
            )


def _owners(model: Any, selection: Selection, weights: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Return the weight, and the axis of its output channels, by its own name and by those of its nodes."""
    chosen = set(selection.nodes)
    owners: dict[str, tuple[str, int]] = {}
    for node in model.graph.node:
        if node.name not in chosen:
            continue
        name = next((name for name in (node.input[1], node.input[0]) if name in weights), None)
        if name is not None:
            owners[node.name] = owners[name] = (name, graphs.channel_axis(node))
    return owners


def _checked(key: str, given: Array, weight: Any, axis: int) -> Array:
    import numpy as np
    from onnx import numpy_helper

    scale = np.asarray(given, dtype=np.float32)
    if not np.isfinite(scale).all() or (scale < 0).any():
        raise QuantizeError(f"{key}: a weight scale is negative, NaN or Inf")
    if scale.ndim > 1 or (scale.ndim == 1 and scale.size != weight.dims[axis]):
        raise QuantizeError(
            f"{key}: {list(scale.shape)} scales are given for a weight of shape {list(weight.dims)}, expected one, or"
            f" {weight.dims[axis]} for axis {axis}"
        )
    if (scale == 0).any():
        values = np.moveaxis(numpy_helper.to_array(weight), axis, 0)
        if values[scale == 0].any():
            raise QuantizeError(f"{key}: a weight scale is zero though its weights are not")
        scale = np.where(scale == 0, np.float32(1), scale)
    return scale


def _equal(one: Array, other: Array) -> bool:
    import numpy as np

    return bool(np.array_equal(one, other))


def _entries(scale: Array, axis: int) -> list[dict[str, Any]]:
    import numpy as np
    from onnxruntime.quantization import QuantType

    zero = np.array(0, np.int8)
    if not scale.ndim:
        return [{"quant_type": QuantType.QInt8, "scale": scale, "zero_point": zero}]
    return [{"axis": axis, "quant_type": QuantType.QInt8, "scale": one, "zero_point": zero} for one in scale]
