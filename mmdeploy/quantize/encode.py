"""Write ranges into a graph as Q/DQ pairs, in the encoding that an engine wants.

ONNX Runtime's `QDQQuantizer` places the pairs and quantizes weights. Weights are stored as INT8 behind a
DequantizeLinear, so the file shrinks; ONNX Runtime and TensorRT both read that. UINT8 with zero point 128 is
made from the INT8 graph by moving zero points: round(x / s) clipped to [-128, 127] and round(x / s) + 128
clipped to [0, 255] are the same numbers, bit for bit.

Biases of UINT8 graphs are INT32 at the product of the scales of input and weight, unless the scheme says otherwise:
without that ONNX Runtime leaves a Gemm in float. Where they are INT32 the graph is meant for ONNX Runtime, and takes
the forms of `onnxruntime_forms`.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mmdeploy.core.contracts import Array, Encoding
from mmdeploy.core.errors import QuantizeError
from mmdeploy.engines.int8_forms import uint8_from_int8
from mmdeploy.quantize import bias_limits, graphs, onnxruntime_forms, weight_codes
from mmdeploy.quantize import weight_scales as given_scales
from mmdeploy.quantize.gptq import Rounded
from mmdeploy.quantize.scheme import Scheme
from mmdeploy.quantize.selection import Selection
from mmdeploy.quantize.set_aside import compact, whole


def write(
    model: Any,
    selection: Selection,
    ranges: Mapping[str, tuple[float, float]],
    *,
    encoding: Encoding,
    scheme: Scheme,
    weight_scales: Mapping[str, Array] | None = None,
    weights: Rounded | None = None,
) -> Any:
    """Return the quantized graph; ``model`` is left as it is.

    Args:
        model: The float graph, set aside or whole.
        selection: Nodes to quantize.
        ranges: Smallest and largest value by tensor, for every tensor of the selection.
        encoding: How activations are written.
        scheme: Of the recipe; whether a weight has one scale for each output channel.
        weight_scales: Scales to write bit for bit instead of those of the largest weights, by name of a weight or
            of the node that multiplies by it: one, or one for each output channel [channels]. One under which the
            bias of its channel would overflow is raised (see `bias_limits`).
        weights: Weights to write, with their scales, in place of the nearest codes; others than those of quantized
            nodes stay as they are.

    Raises:
        QuantizeError: When ONNX Runtime's quantizer refuses the graph, or scales do not fit their weight.
    """
    source = whole(model)
    scales = {**(weight_scales or {}), **(_put(source, selection, weights) if weights else {})}
    int32_bias = _is_int32(scheme.bias, encoding)
    if int32_bias:
        onnxruntime_forms.join_biases(source, selection.nodes)
    smallest = bias_limits.smallest_scales(source, selection, ranges, encoding)
    overrides = bias_limits.raised(
        source, selection, smallest, _overrides(source, selection, scales), per_channel=scheme.per_channel
    )
    if graphs.is_typed(source):  # else the quantizer writes the graph to disk and reads it again, to infer its types
        source.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    told = weight_codes.with_scales(source, selection, overrides) if scheme.per_channel else overrides
    try:
        with _quiet():
            quantizer = _quantizer(source, selection, ranges, encoding, scheme=scheme, overrides=told)
            quantizer.quantize_model()
    except Exception as cause:
        raise QuantizeError(f"ONNX Runtime's quantizer refuses the graph: {cause}") from cause
    quantized = quantizer.model.model
    weight_codes.fold(quantized)
    given_scales.check(quantized, overrides)
    if encoding is Encoding.UINT8_SYMMETRIC and not uint8_from_int8(quantized):
        raise QuantizeError("a zero point of the symmetric INT8 graph is not zero")
    if int32_bias:
        onnxruntime_forms.shield_clips(quantized, selection.nodes)
    return compact(quantized)


def _put(model: Any, selection: Selection, weights: Rounded) -> dict[str, Array]:
    """Write rounded weights over those that quantized nodes read, in place; return their scales."""
    chosen = set(selection.nodes)
    read = {node.input[1] for node in model.graph.node if node.name in chosen and len(node.input) > 1}
    for weight in model.graph.initializer:
        if weight.name in read and weight.name in weights.codes:
            weight.raw_data = weights.values(weight.name).tobytes()
    return weights.flat_scales(read)


def _quantizer(
    model: Any,
    selection: Selection,
    ranges: Mapping[str, tuple[float, float]],
    encoding: Encoding,
    *,
    scheme: Scheme,
    overrides: Mapping[str, list[dict[str, Any]]],
) -> Any:
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

    asymmetric = encoding is Encoding.UINT8_ASYMMETRIC
    int32_bias = _is_int32(scheme.bias, encoding)
    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    chosen = set(selection.nodes)
    return QDQQuantizer(
        model,
        per_channel=scheme.per_channel,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if asymmetric else QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=list(selection.nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in model.graph.node if node.name in chosen}),
        extra_options={
            "ActivationSymmetric": not asymmetric,
            "WeightSymmetric": True,
            "QuantizeBias": int32_bias,
            "QDQDisableWeightAdjustForInt32Bias": not int32_bias,
            "AddQDQPairToWeight": True,  # for `weight_codes.fold`
            "OpTypesToExcludeOutputQuantization": [*selection.float_outputs, *_joined(selection)],
            "TensorQuantOverrides": dict(overrides),
        },
    )


def _is_int32(bias: Literal["auto", "int32", "float"], encoding: Encoding) -> bool:
    return bias == "int32" or (bias == "auto" and encoding is not Encoding.INT8_SYMMETRIC)


def _joined(selection: Selection) -> tuple[str, ...]:
    """Return the operator that a MatMul may have become."""
    return ("Gemm",) if "MatMul" in selection.float_outputs else ()


def _overrides(model: Any, selection: Selection, scales: Mapping[str, Array]) -> dict[str, list[dict[str, Any]]]:
    from onnxruntime.quantization import QuantType

    single = _single_scale_weights(model, set(selection.nodes))
    given = given_scales.overrides(model, selection, scales, single)
    return {name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in single} | given


def _single_scale_weights(model: Any, chosen: set[str]) -> set[str]:
    """Return the weights of products that ONNX Runtime's INT8 kernel takes with one scale only.

    It refuses at run time a scale a channel for the left operand, and for any that is not a matrix. In a transposed
    convolution in groups the channels of a weight are those of one group, which a bias has no scales for.
    """
    grouped = {
        node.input[1]
        for node in model.graph.node
        if node.op_type == "ConvTranspose" and any(one.name == "group" and one.i > 1 for one in node.attribute)
    }
    rank = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.name in chosen]
    left = {node.input[0] for node in products if node.input[0] in rank}
    return left | (grouped & set(rank)) | {node.input[1] for node in products if rank.get(node.input[1], 2) != 2}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the quantizer prints and logs on the root logger out of the user's sight."""
    root = logging.getLogger()
    printed = io.StringIO()

    def ours(record: logging.LogRecord) -> bool:
        return record.name != "root"

    root.addFilter(ours)
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        root.removeFilter(ours)
