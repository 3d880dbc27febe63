"""What is quantized and how it is written: option fields that the methods have in common.

A method's options take them in by inheritance, so a recipe says the same words to each, and a layer left out of one
method stays out when another is tried.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from mmdeploy.core.contracts import MethodOptions


class NodeChoice(MethodOptions):
    """Which nodes are quantized.

    Attributes:
        op_types: Operators to quantize.
        exclude: Globs on node names (``blocks.0.*``); matching nodes stay FP32.
        exclude_op_types: Operators that stay FP32, taken off ``op_types``.
        per_channel: One scale for each output channel of a weight; otherwise one a weight.
        embeddings: Whether large embedding tables are INT8, one scale a row: ``auto`` where that costs at most 1 dB of
            SQNR at the component's outputs, or leaves 35 dB. ``exclude`` leaves out tables too. Never for TensorRT.
    """

    op_types: Annotated[tuple[str, ...], Field(min_length=1)] = ("MatMul", "Gemm", "Conv")
    exclude: tuple[str, ...] = ()
    exclude_op_types: tuple[str, ...] = ()
    per_channel: bool = True
    embeddings: Literal["auto", "int8", "float"] = "auto"


class Scheme(NodeChoice):
    """Which nodes are quantized, and how it is written.

    Attributes:
        quantize_attention: Quantize products of two activations too.
        bias: How biases of Gemm and Conv are written; the bias of a MatMul is an Add and always float. ``int32`` at
            the product of the scales of input and weight: without it ONNX Runtime leaves a Gemm in float, five times
            slower. ``float``: as it was, which TensorRT requires and OpenVINO runs a tenth faster. ``auto``: int32
            where activations are UINT8, float where they are INT8.
    """

    quantize_attention: bool = False
    bias: Literal["auto", "int32", "float"] = "auto"


Calibrator: TypeAlias = Literal["minmax", "entropy", "percentile", "mse"]


class CalibrationOptions(MethodOptions):
    """How ranges of activations are found on calibration data.

    Attributes:
        calibrator: How a tensor's range is found: ``minmax``, ``entropy``, ``percentile`` or ``mse``; ``auto`` tries
            ``percentile`` and ``mse`` on transformers, and is ``percentile`` elsewhere.
        percentile: Share of the values kept by ``percentile``, in percent; half of the rest is cut off at each
            end. Of fewer values than tell it, such as 40,000 of a tensor at 99.99, the range is made wider instead.
        samples: Number of calibration samples used, from the first. Of a module that several components call, what
            each of them gives it counts as one: 256 of a text encoder that is called twice are 128 of the data's.
        batch_size: Samples that pass through the graph at once; bounds memory.
        equalize: Strength alpha of SmoothQuant's equalization, between 0 and 1, usually 0.5: how much of what makes
            normalized activations hard to quantize goes into the weights that they meet; null for none. ``auto`` tries
            none and 0.5 on transformers.
    """

    calibrator: Calibrator | Literal["auto"] = "auto"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    samples: Annotated[int, Field(ge=1)] = 256
    batch_size: Annotated[int, Field(ge=1)] = 8
    equalize: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] | None = "auto"
