"""ONNX Runtime really runs in INT8 what is written for it, and with the same numbers in each encoding."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from float_graphs import CONV, MLP, VIT, answers, built, quantized, samples, sqnr_db
from onnx import numpy_helper

from mmdeploy.core.contracts import Encoding

UINT8 = (Encoding.UINT8_SYMMETRIC, Encoding.UINT8_ASYMMETRIC)
#: An MLP of plain matrices: what `x @ w + b` is exported as.
PLAIN = """
<ir_version: 10, opset_import: ["" : 20]>
mlp (float[batch, 16] x) => (float[batch, 8] y)
<float[16, 32] w1, float[32] b1, float[32, 8] w2, float[8] b2>
{
  [first] h = MatMul (x, w1)
  [first_bias] g = Add (h, b1)
  [act] a = Tanh (g)
  [second] z = MatMul (a, w2)
  [second_bias] y = Add (b2, z)
}
"""
RELU = MLP.replace("Tanh (h)", "Relu (h)")
CLIP = MLP.replace("Tanh (h)", "Clip (h, low, high)").replace(
    "float[8] b2>", "float[8] b2, float low = {-0.5}, float high = {0.7}>"
)
SHARED = RELU.replace("float[batch, 8] y)", "float[batch, 8] y, float[batch, 32] a)")
LAST = RELU.replace("y = Gemm <transB = 1> (a, w2, b2)", "c = Gemm <transB = 1> (a, w2, b2) y = Relu (c)")


def optimized(path: Path, work: Path) -> list[str]:
    """Return the operators that ONNX Runtime runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(work / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options)
    return [node.op_type for node in onnx.load(work / "optimized.onnx").graph.node]


@pytest.mark.parametrize("encoding", UINT8)
@pytest.mark.parametrize(
    "text", [MLP, PLAIN, RELU, CLIP, SHARED, LAST], ids=["mlp", "plain", "relu", "clip", "shared", "last"]
)
def test_every_product_runs_in_int8(tmp_path, text, encoding):
    artifact, x = built(text, tmp_path / "float.onnx"), samples((16,))
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=encoding)
    operators = optimized(result.path, tmp_path)
    assert operators.count("QGemm") == 2
    assert not {"Gemm", "FusedGemm", "MatMul"} & set(operators)
    assert sqnr_db(answers(artifact.path, x), answers(result.path, x)) > 25


def test_node_that_is_not_quantized_keeps_its_form(tmp_path):
    artifact, x = built(PLAIN, tmp_path / "float.onnx"), samples((16,))
    result = quantized(artifact, tmp_path / "q", {"x": x}, exclude=("second",))
    assert [node.op_type for node in onnx.load(result.path).graph.node if node.name in ("first", "second")] == [
        "Gemm",
        "MatMul",
    ]


def test_only_matmul_may_be_named(tmp_path):
    """The Gemm that a MatMul becomes is of no operator that the recipe names."""
    artifact, x = built(PLAIN, tmp_path / "float.onnx"), samples((16,))
    result = quantized(artifact, tmp_path / "q", {"x": x}, op_types=("MatMul",))
    assert optimized(result.path, tmp_path).count("QGemm") == 2


def test_relu_that_the_codes_make_redundant_is_left_to_onnxruntime(tmp_path):
    artifact, x = built(RELU, tmp_path / "float.onnx"), samples((16,))
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=Encoding.UINT8_ASYMMETRIC)
    assert optimized(result.path, tmp_path) == ["QuantizeLinear", "QGemm", "QGemm"]


@pytest.mark.parametrize("text", [RELU, CLIP, PLAIN], ids=["relu", "clip", "plain"])
def test_other_engines_get_the_graph_as_it_was(tmp_path, text):
    artifact, x = built(text, tmp_path / "float.onnx"), samples((16,))
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=Encoding.INT8_SYMMETRIC)
    pairs = ("QuantizeLinear", "DequantizeLinear")
    written = [node.op_type for node in onnx.load(result.path).graph.node if node.op_type not in pairs]
    assert written == [node.op_type for node in onnx.load(artifact.path).graph.node]


@pytest.mark.parametrize("bias", ["int32", "float"])
@pytest.mark.parametrize(("text", "shape"), [(MLP, (16,)), (RELU, (16,)), (CONV, (3, 8, 8)), (VIT, (9, 16))])
def test_symmetric_encodings_answer_bit_for_bit_alike(tmp_path, text, shape, bias):
    """INT8 around 0 and UINT8 around 128: integer sums are exact, and scaled by the same numbers."""
    artifact, x = built(text, tmp_path / "float.onnx"), samples(shape)
    int8, uint8 = (
        answers(quantized(artifact, tmp_path / encoding, {"x": x}, encoding=encoding, bias=bias).path, 3 * x)
        for encoding in (Encoding.INT8_SYMMETRIC, Encoding.UINT8_SYMMETRIC)
    )
    np.testing.assert_array_equal(int8, uint8)


@pytest.mark.parametrize("encoding", Encoding)
def test_biases_are_written_as_the_scheme_says(tmp_path, encoding):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,))
    auto = np.float32 if encoding is Encoding.INT8_SYMMETRIC else np.int32
    for bias, dtype in (("int32", np.int32), ("float", np.float32), ("auto", auto)):
        model = onnx.load(
            quantized(artifact, tmp_path / f"{encoding}-{bias}", {"x": x}, encoding=encoding, bias=bias).path
        )
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        biases = [
            array
            for name, array in stored.items()
            if name.startswith(("b1", "b2")) and "_scale" not in name and "_zero" not in name
        ]
        assert [array.dtype for array in biases] == [dtype, dtype]
