"""The variants that `clip_towers.py` measures, and the pairs of them that tell what a choice brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmdeploy.core.contracts import Encoding
from mmdeploy.engines import aot_inductor, openvino

#: On the graph with every position of the last layer, as any exporter writes it; peers start from the same one.
BASELINE = "ONNX Runtime FP32"
S8, U8, U8S = Encoding.INT8_SYMMETRIC, Encoding.UINT8_ASYMMETRIC, Encoding.UINT8_SYMMETRIC


@dataclass(frozen=True)
class Variant:
    """One row: an engine on a graph.

    Attributes:
        name: As it is printed.
        engine: Of mmdeploy; ``torch`` for the module itself.
        graph: Key of the graph that it runs, or ``module``; of ``torch`` how the module is run.
        options: Of the engine.
    """

    name: str
    engine: str
    graph: str
    options: Any = None


@dataclass(frozen=True)
class Recipe:
    """How a quantized graph is made: options of static quantization, the encoding, and the export it starts from."""

    options: dict[str, Any]
    encoding: Encoding = U8
    source: str = "fp32"


GRAPHS: dict[str, Recipe] = {
    "u8": Recipe({}),
    "u8s": Recipe({}, U8S),
    "s8": Recipe({}, S8),
    "u8 exporter": Recipe({}, source="exporter"),
    "s8 exporter": Recipe({}, S8, "exporter"),
    "s8 whole": Recipe({}, S8, "whole"),
    "u8 tensor": Recipe({"per_channel": False}),
    "s8 tensor": Recipe({"per_channel": False}, S8),
    "s8 attention": Recipe({"quantize_attention": True}, S8),
    "u8 float bias": Recipe({"bias": "float"}),
    "s8 int32 bias": Recipe({"bias": "int32"}, S8),
    "u8 ends float": Recipe({"exclude": ("*.layers.0.*", "*.layers.11.*")}),
    "s8 ends float": Recipe({"exclude": ("*.layers.0.*", "*.layers.11.*")}, S8),
    "u8 equalized": Recipe({"equalize": 0.5}),
    "s8 equalized": Recipe({"equalize": 0.5}, S8),
    "u8 mse": Recipe({"calibrator": "mse"}),
    "s8 31 dB": Recipe({"min_sqnr_db": 31}, S8),
    "s8 31 dB nearest": Recipe({"min_sqnr_db": 31, "rounding": "nearest"}, S8),
    "s8 gptq": Recipe({"rounding": "gptq"}, S8),
}
BF16 = openvino.Options(precision="bf16")
FIXED = {"fixed_batches": (1,)}
VARIANTS = (
    Variant(BASELINE, "onnxruntime", "whole"),
    Variant("ONNX Runtime FP32, needed positions alone", "onnxruntime", "fp32"),
    Variant("PyTorch eager", "torch", "fp32"),
    Variant("ONNX Runtime FP32, as exported", "onnxruntime", "exporter"),
    Variant("ONNX Runtime UINT8 asymmetric", "onnxruntime", "u8"),
    Variant("ONNX Runtime UINT8 symmetric", "onnxruntime", "u8s"),
    Variant("ONNX Runtime INT8 symmetric", "onnxruntime", "s8"),
    Variant("ONNX Runtime UINT8, as exported", "onnxruntime", "u8 exporter"),
    Variant("ONNX Runtime UINT8, one scale a weight", "onnxruntime", "u8 tensor"),
    Variant("ONNX Runtime INT8, one scale a weight", "onnxruntime", "s8 tensor"),
    Variant("ONNX Runtime UINT8, float bias", "onnxruntime", "u8 float bias"),
    Variant("ONNX Runtime UINT8, first and last layer float", "onnxruntime", "u8 ends float"),
    Variant("ONNX Runtime UINT8, equalized 0.5", "onnxruntime", "u8 equalized"),
    Variant("ONNX Runtime UINT8, mse", "onnxruntime", "u8 mse"),
    Variant("ONNX Runtime dynamic", "onnxruntime", "dynamic"),
    Variant("OpenVINO FP32", "openvino", "fp32", openvino.Options()),
    Variant("OpenVINO BF16", "openvino", "fp32", BF16),
    Variant("OpenVINO INT8 symmetric", "openvino", "s8", openvino.Options()),
    Variant("OpenVINO INT8 symmetric + BF16", "openvino", "s8", BF16),
    Variant("OpenVINO UINT8 asymmetric", "openvino", "u8", openvino.Options()),
    Variant("OpenVINO UINT8 asymmetric + BF16", "openvino", "u8", BF16),
    Variant("OpenVINO INT8, as exported", "openvino", "s8 exporter", openvino.Options()),
    Variant("OpenVINO INT8, one scale a weight", "openvino", "s8 tensor", openvino.Options()),
    Variant("OpenVINO INT8, attention's products too", "openvino", "s8 attention", openvino.Options()),
    Variant("OpenVINO INT8, INT32 bias", "openvino", "s8 int32 bias", openvino.Options()),
    Variant("OpenVINO INT8, first and last layer float", "openvino", "s8 ends float", openvino.Options()),
    Variant("OpenVINO INT8, equalized 0.5", "openvino", "s8 equalized", openvino.Options()),
    Variant("OpenVINO INT8, all positions, batch 1 fixed", "openvino", "s8 whole", openvino.Options(**FIXED)),
    Variant("OpenVINO INT8, 31 dB, batch 1 fixed", "openvino", "s8 31 dB", openvino.Options(**FIXED)),
    Variant("OpenVINO INT8, 31 dB + BF16, batch 1 fixed", "openvino", "s8 31 dB", BF16.model_copy(update=FIXED)),
    Variant(
        "OpenVINO INT8, 31 dB of the nearest codes, batch 1 fixed",
        "openvino",
        "s8 31 dB nearest",
        openvino.Options(**FIXED),
    ),
    Variant("OpenVINO INT8, GPTQ, batch 1 fixed", "openvino", "s8 gptq", openvino.Options(**FIXED)),
    Variant("OpenVINO BF16, batch 1 fixed", "openvino", "fp32", BF16.model_copy(update=FIXED)),
    Variant("OpenVINO INT8 symmetric, batch 1 fixed", "openvino", "s8", openvino.Options(**FIXED)),
    Variant("OpenVINO INT8 symmetric + BF16, batch 1 fixed", "openvino", "s8", BF16.model_copy(update=FIXED)),
    Variant("aot_inductor FP32", "aot_inductor", "module", aot_inductor.Options()),
    Variant("aot_inductor BF16", "aot_inductor", "module", aot_inductor.Options(precision="bf16")),
    Variant("NNCF INT8 in OpenVINO (peer)", "openvino", "nncf", openvino.Options()),
    Variant("NNCF INT8 in OpenVINO + BF16 (peer)", "openvino", "nncf", BF16),
)
#: What a choice brings: its name, the variant with it, the one without.
SHARES = (
    (
        "encoding: UINT8 asymmetric, not INT8, in ONNX Runtime",
        "ONNX Runtime UINT8 asymmetric",
        "ONNX Runtime INT8 symmetric",
    ),
    ("encoding: INT8, not UINT8 asymmetric, in OpenVINO", "OpenVINO INT8 symmetric", "OpenVINO UINT8 asymmetric"),
    (
        "engine: OpenVINO, not ONNX Runtime, each at its best encoding",
        "OpenVINO INT8 symmetric",
        "ONNX Runtime UINT8 asymmetric",
    ),
    (
        "the last layer for the position that is read alone, OpenVINO INT8",
        "OpenVINO INT8 symmetric, batch 1 fixed",
        "OpenVINO INT8, all positions, batch 1 fixed",
    ),
    (
        "the last layer for the position that is read alone, ONNX Runtime FP32",
        "ONNX Runtime FP32, needed positions alone",
        BASELINE,
    ),
    ("attention without detours, ONNX Runtime", "ONNX Runtime UINT8 asymmetric", "ONNX Runtime UINT8, as exported"),
    ("attention without detours, OpenVINO", "OpenVINO INT8 symmetric", "OpenVINO INT8, as exported"),
    (
        "a scale a channel, ONNX Runtime UINT8",
        "ONNX Runtime UINT8 asymmetric",
        "ONNX Runtime UINT8, one scale a weight",
    ),
    ("a scale a channel, OpenVINO INT8", "OpenVINO INT8 symmetric", "OpenVINO INT8, one scale a weight"),
    (
        "attention's products left in float, OpenVINO",
        "OpenVINO INT8 symmetric",
        "OpenVINO INT8, attention's products too",
    ),
    (
        "biases of Gemm and Conv: INT32, not float, ONNX Runtime",
        "ONNX Runtime UINT8 asymmetric",
        "ONNX Runtime UINT8, float bias",
    ),
    ("biases of Gemm and Conv: float, not INT32, OpenVINO", "OpenVINO INT8 symmetric", "OpenVINO INT8, INT32 bias"),
    (
        "first and last layer left in float, ONNX Runtime",
        "ONNX Runtime UINT8, first and last layer float",
        "ONNX Runtime UINT8 asymmetric",
    ),
    (
        "first and last layer left in float, OpenVINO",
        "OpenVINO INT8, first and last layer float",
        "OpenVINO INT8 symmetric",
    ),
    (
        "a graph for batch 1 alone, OpenVINO BF16",
        "OpenVINO BF16, batch 1 fixed",
        "OpenVINO BF16",
    ),
    (
        "a graph for batch 1 alone, OpenVINO INT8",
        "OpenVINO INT8 symmetric, batch 1 fixed",
        "OpenVINO INT8 symmetric",
    ),
    (
        "a graph for batch 1 alone, OpenVINO INT8 + BF16",
        "OpenVINO INT8 symmetric + BF16, batch 1 fixed",
        "OpenVINO INT8 symmetric + BF16",
    ),
    ("equalization, ONNX Runtime", "ONNX Runtime UINT8, equalized 0.5", "ONNX Runtime UINT8 asymmetric"),
    ("equalization, OpenVINO", "OpenVINO INT8, equalized 0.5", "OpenVINO INT8 symmetric"),
    (
        "31 dB at the outputs, OpenVINO INT8 + BF16",
        "OpenVINO INT8, 31 dB + BF16, batch 1 fixed",
        "OpenVINO INT8 symmetric + BF16, batch 1 fixed",
    ),
    ("calibrator mse, not percentile, ONNX Runtime", "ONNX Runtime UINT8, mse", "ONNX Runtime UINT8 asymmetric"),
)
