"""Dynamic quantization: the numbers against NumPy's, the forms that ONNX Runtime runs, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from float_graphs import CONV, MLP, VIT, answers, built, context_of, samples, sqnr_db
from onnx import numpy_helper
from pydantic import ValidationError

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.target import Target
from mmdeploy.quantize import dynamic

PLAIN = MLP.replace("Gemm <transB = 1> (a, w2, b2)", "MatMul (a, w2)").replace("8, 32] w2", "32, 8] w2")
#: Two layers with one weight, as the exporter writes layers that share it.
SHARED = """
<ir_version: 10, opset_import: ["" : 20]>
mlp (float[batch, 16] x) => (float[batch, 16] y)
<float[16, 16] w, float[16] b1, float[16] b2>
{
  [first] h = Gemm <transB = 1> (x, w, b1)
  [act] a = Tanh (h)
  [second] y = Gemm <transB = 1> (a, w, b2)
}
"""
ONE = """
<ir_version: 10, opset_import: ["" : 20]>
one (float[batch, 16] x) => (float[batch, 8] y)
<float[16, 8] w2>
{
  [only] y = MatMul (x, w2)
}
"""


def run(artifact: Artifact, work: Path, x, **options) -> Artifact:
    context = replace(context_of(work, None), examples=lambda batch: {"x": x[:batch]})
    return dynamic.run(artifact, dynamic.Options(**options), context)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    ("text", "shape", "layers"), [(MLP, (16,), 2), (PLAIN, (16,), 2), (SHARED, (16,), 2), (VIT, (9, 16), 6)]
)
def test_answers_are_near_those_of_the_float_graph(tmp_path, text, shape, layers, per_channel):
    artifact, x = built(text, tmp_path / "float.onnx"), samples(shape)
    result = run(artifact, tmp_path / "q", x, per_channel=per_channel)
    assert sqnr_db(answers(artifact.path, x), answers(result.path, x)) > 30
    assert result.metadata["cosine"]["y"] > 0.999
    operators = [node.op_type for node in onnx.load(result.path).graph.node]
    assert operators.count("MatMulInteger") == layers == len(result.metadata["quantized_nodes"])
    assert result.metadata["bytes_after"] < artifact.size_bytes or text != VIT


def test_one_layer_is_what_numpy_computes(tmp_path):
    artifact, x = built(ONE, tmp_path / "float.onnx"), samples((16,), count=5)
    weight = next(numpy_helper.to_array(w) for w in onnx.load(artifact.path).graph.initializer if w.name == "w2")
    result = run(artifact, tmp_path / "q", x)
    scales = np.abs(weight).max(axis=0) * 2 / 254
    codes = np.clip(np.rint(weight / scales), -127, 127)
    low, high = min(x.min(), 0), max(x.max(), 0)
    step = (high - low) / 255
    zero = np.rint(-low / step)
    rounded = (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step
    np.testing.assert_allclose(answers(result.path, x), rounded @ (codes * scales), rtol=2e-3, atol=2e-3)


def test_layers_are_left_out_by_name(tmp_path):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    result = run(artifact, tmp_path / "q", x, exclude=("attention*",))
    assert result.metadata["quantized_nodes"] == ["mlp_0/MatMul", "mlp_2/MatMul"]
    assert result.metadata["excluded_nodes"]["attention_query/MatMul"] == "excluded by 'attention*'"


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.TENSORRT_RTX])
def test_tensorrt_is_told_in_words_of_the_recipe(tmp_path, target):
    artifact = built(MLP, tmp_path / "float.onnx")
    with pytest.raises(QuantizeError, match="TensorRT takes no dynamic quantization") as error:
        dynamic.run(artifact, dynamic.Options(), replace(context_of(tmp_path / "q", None), target=target))
    assert error.value.hint is not None and "quantize.method: static" in error.value.hint


def test_graph_without_linear_layers_is_refused(tmp_path):
    artifact = built(CONV, tmp_path / "float.onnx")
    with pytest.raises(QuantizeError, match="the graph has no MatMul, Gemm; it has Conv, Relu"):
        run(artifact, tmp_path / "q", samples((3, 8, 8)))


@pytest.mark.parametrize("bad", [{"op_types": ("Conv",)}, {"calibrator": "mse"}, {"bias": "float"}])
def test_options_of_other_methods_are_refused(bad):
    with pytest.raises(ValidationError):
        dynamic.Options(**bad)


def test_openvino_answers_alike(tmp_path):
    openvino = pytest.importorskip("openvino")
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    result = run(artifact, tmp_path / "q", x)
    compiled = openvino.Core().compile_model(result.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert sqnr_db(answers(artifact.path, x), compiled({"x": x})[0]) > 30
