"""Small graphs with a fault planted where a test wants it."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8
#: Largest input that the INT8 graphs have codes for.
REACH = 4.0


def samples(count: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)}


def weights(layers: int) -> list[np.ndarray]:
    """Return orthogonal matrices: no layer makes errors larger or smaller."""
    random = np.random.default_rng(5)
    return [np.linalg.qr(random.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32) for _ in range(layers)]


def biases(layers: int) -> list[np.ndarray]:
    random = np.random.default_rng(6)
    return [random.standard_normal(WIDTH).astype(np.float32) for _ in range(layers)]


def _model(nodes: list, constants: dict[str, np.ndarray], output: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def float_chain(layers: int, *, wrong: int | None = None) -> onnx.ModelProto:
    """Return x → [Gemm → Tanh] × layers, outputs g0, t0, g1, t1 …; the weight of layer ``wrong`` is turned around."""
    nodes, constants, source = [], {}, "x"
    for index, (weight, bias) in enumerate(zip(weights(layers), biases(layers), strict=True)):
        constants |= {f"w{index}": weight[::-1].copy() if index == wrong else weight, f"b{index}": bias}
        nodes.append(helper.make_node("Gemm", [source, f"w{index}", f"b{index}"], [f"g{index}"], f"layer{index}/Gemm"))
        nodes.append(helper.make_node("Tanh", [f"g{index}"], [f"t{index}"], f"layer{index}/Tanh"))
        source = f"t{index}"
    return _model(nodes, constants, source)


@dataclass(frozen=True)
class Planted:
    """What is wrong with a Q/DQ graph.

    Attributes:
        layer: Where.
        kind: ``range``: the scale of the layer's input is a tenth of what it must be; ``weight``: the scale of its
            weight is twice what it must be; ``bias``: its bias is lost.
    """

    layer: int
    kind: str


def int8_chain(layers: int, planted: Planted | None = None, *, dead: int | None = None) -> onnx.ModelProto:
    """Return the same in symmetric INT8 with float biases, named as ONNX Runtime's quantizer names it.

    Args:
        layers: Number of them.
        planted: What is wrong.
        dead: A layer in which one channel's weights are almost nothing, and its bias is not: ONNX Runtime makes an
            INT32 bias at the product of both scales when it loads the graph, and that overflows. With it, Relu takes
            the place of Tanh, so that a whole layer becomes one INT8 kernel.
    """
    activation, reach = ("Tanh", 1.0) if dead is None else ("Relu", REACH)
    nodes, constants, source = [], {"zero": np.int8(0), "zeros": np.zeros(WIDTH, np.int8)}, "x"
    for index, (weight, bias) in enumerate(zip(weights(layers), biases(layers), strict=True)):
        weight, bias = weight.copy(), bias.copy()
        if index == dead:
            weight[:, 2] *= 1e-12
            bias[2] = 3.0
        here = planted is not None and planted.layer == index and planted.kind
        scale = np.float32((REACH if index == 0 else reach) / 127 * (0.1 if here == "range" else 1.0))
        by_channel = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
        codes = np.round(weight / by_channel).clip(-127, 127).astype(np.int8)
        constants |= {
            f"{source}_scale": scale,
            f"w{index}_quantized": codes,
            f"w{index}_scale": by_channel * np.float32(2.0 if here == "weight" else 1.0),
            f"b{index}": bias * np.float32(0.0 if here == "bias" else 1.0),
        }
        nodes += _layer(index, source, activation)
        source = f"t{index}"
    return _model(nodes, constants, source)


def _layer(index: int, source: str, activation: str) -> list:
    coded, rounded = f"{source}_QuantizeLinear_Output", f"{source}_DequantizeLinear_Output"
    weight = f"w{index}_DequantizeLinear_Output"
    return [
        helper.make_node("QuantizeLinear", [source, f"{source}_scale", "zero"], [coded], f"{source}_Q"),
        helper.make_node("DequantizeLinear", [coded, f"{source}_scale", "zero"], [rounded], f"{source}_DQ"),
        helper.make_node(
            "DequantizeLinear", [f"w{index}_quantized", f"w{index}_scale", "zeros"], [weight], f"w{index}_DQ", axis=1
        ),
        helper.make_node("Gemm", [rounded, weight, f"b{index}"], [f"g{index}"], f"layer{index}/Gemm"),
        helper.make_node(activation, [f"g{index}"], [f"t{index}"], f"layer{index}/{activation}"),
    ]
