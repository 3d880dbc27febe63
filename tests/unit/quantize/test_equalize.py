"""Equalization leaves the float graph's answers as they were, and the numbers are those of the paper."""

import numpy as np
import onnx
import pytest
from float_graphs import VIT, activations_of, answers, batches_of, built, quantized, samples, sqnr_db
from onnx import numpy_helper
from pydantic import ValidationError

from mmdeploy.core.contracts import Encoding
from mmdeploy.quantize import equalize, graphs, ranges, selection, static
from mmdeploy.quantize.scheme import Scheme

#: The output of the normalization is also the residual, as in a post-norm block, and goes through a transposition.
POST = """
<ir_version: 10, opset_import: ["" : 20]>
post (float[batch, 9, 16] x) => (float[batch, 9, 16] y)
<float[16] g, float[16] n, float[16, 32] wu, float[32] bu, float[32, 16] wd, float[16] bd>
{
  [norm] t = LayerNormalization <axis = -1> (x, g, n)
  [turn] s = Transpose <perm = [1, 0, 2]> (t)
  [up] u0 = MatMul (s, wu)
  [up_bias] u1 = Add (u0, bu)
  [act] u = Gelu (u1)
  [down] d0 = MatMul (u, wd)
  [down_bias] d1 = Add (d0, bd)
  [back] d = Transpose <perm = [1, 0, 2]> (d1)
  [sum] y = Add (t, d)
}
"""
#: A normalization written out, whose scale and shift are a Mul and an Add.
WRITTEN_OUT = """
<ir_version: 10, opset_import: ["" : 20]>
out (float[batch, 9, 16] x) => (float[batch, 9, 8] y)
<float[16] g, float[16] n, float[16, 8] w, int64[1] last = {-1}, float small = {0.00001}>
{
  [mean] m = ReduceMean (x, last)
  [centre] c = Sub (x, m)
  [square] q = Mul (c, c)
  [variance] v0 = ReduceMean (q, last)
  [stable] v = Add (v0, small)
  [root] r = Sqrt (v)
  [unit] z = Div (c, r)
  [scale] zg = Mul (z, g)
  [shift] t = Add (zg, n)
  [head] y = MatMul (t, w)
}
"""
#: Linear, ReLU, linear: the scales go through the ReLU into the first layer.
RELU = """
<ir_version: 10, opset_import: ["" : 20]>
mlp (float[batch, 16] x) => (float[batch, 8] y)
<float[32, 16] w1, float[32] b1, float[32, 8] w2>
{
  [first] h = Gemm <transB = 1> (x, w1, b1)
  [act] a = Relu (h)
  [second] y = MatMul (a, w2)
}
"""
GRAPHS = {
    "vit": (VIT, (9, 16), {"norm1/LayerNormalization": "folded", "norm2/LayerNormalization": "folded"}),
    "post": (POST, (9, 16), {"norm": "multiplied"}),
    "written out": (WRITTEN_OUT, (9, 16), {"shift": "folded"}),
    "relu": (RELU, (16,), {"act": "folded"}),
}


def outlying(path, factor: float = 40.0):
    """Give two channels of each normalization, or of the first layer, large values, as trained transformers have."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in ("g", "g1", "g2", "b1"):
            values = numpy_helper.to_array(tensor).copy()
            values[[3, 11]] *= factor
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


@pytest.fixture(params=GRAPHS)
def case(request, tmp_path):
    text, shape, expected = GRAPHS[request.param]
    artifact = built(text, tmp_path / "float.onnx")
    outlying(artifact.path)
    return artifact, samples(shape), expected


def equalized(path, x, alpha: float):
    model = graphs.load(path)
    groups = equalize.find(model, selection.choose(model, Scheme()).nodes)
    maxima = ranges.channel_maxima(model, [group.tensor for group in groups], batches_of({"x": x}, 10), threads=1)
    done = equalize.apply(model, groups, maxima, alpha)
    onnx.checker.check_model(model, full_check=True)
    return model, done


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
def test_float_answers_stay_as_they_were(case, tmp_path, alpha):
    artifact, x, expected = case
    model, done = equalized(artifact.path, x, alpha)
    onnx.save(model, tmp_path / "equalized.onnx")
    assert {entry.producer: entry.how for entry in done} == expected
    assert all(entry.scales[1] > 2 * entry.scales[0] for entry in done)  # something was done
    before, after = answers(artifact.path, x), answers(tmp_path / "equalized.onnx", x)
    assert sqnr_db(before, after) > 110
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_scales_are_those_of_the_paper(tmp_path):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    outlying(artifact.path)
    float_graph = onnx.load(artifact.path)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in float_graph.graph.initializer}
    activation = np.abs(activations_of(float_graph, ["z"], x)["z"]).reshape(-1, 16).max(axis=0)
    joint = np.concatenate([weights[name] for name in ("wq", "wk", "wv")], axis=1)  # all that read the activation
    scale = activation**0.7 / np.abs(joint).max(axis=1) ** 0.3
    model, _ = equalized(artifact.path, x, 0.7)
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    for name in ("query", "key", "value"):
        written = after[nodes[f"attention_{name}/MatMul"].input[1]]
        np.testing.assert_allclose(written, weights[f"w{name[0]}"] * scale[:, None], rtol=1e-5)
    np.testing.assert_allclose(after[nodes["norm1/LayerNormalization"].input[1]], weights["g1"] / scale, rtol=1e-5)
    np.testing.assert_allclose(after[nodes["norm1/LayerNormalization"].input[2]], weights["n1"] / scale, rtol=1e-5)
    assert not {"wq", "wk", "wv", "g1", "n1"} & set(after)  # nothing is stored twice


def test_constants_that_others_read_are_left_to_them(tmp_path):
    """The exporter stores equal constants once: two normalizations may share gamma, two layers a weight."""
    text = VIT.replace("(r, g2, n2)", "(r, g1, n1)").replace("(f2, wo)", "(f2, wq)")
    artifact, x = built(text, tmp_path / "float.onnx"), samples((9, 16))
    outlying(artifact.path)
    model, done = equalized(artifact.path, x, 0.5)
    onnx.save(model, tmp_path / "equalized.onnx")
    assert len(done) == 2
    assert sqnr_db(answers(artifact.path, x), answers(tmp_path / "equalized.onnx", x)) > 110


@pytest.mark.parametrize("encoding", Encoding)
def test_outlying_channels_cost_less_after_it(tmp_path, encoding):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    outlying(artifact.path)
    fresh = samples((9, 16), seed=1)
    reference = answers(artifact.path, fresh)
    plain, smooth = (
        quantized(artifact, tmp_path / str(alpha), {"x": x}, encoding=encoding, calibrator="minmax", equalize=alpha)
        for alpha in (None, 0.5)
    )
    gain = sqnr_db(reference, answers(smooth.path, fresh)) - sqnr_db(reference, answers(plain.path, fresh))
    assert gain > 3
    assert plain.metadata["equalized"] == []
    assert [entry["producer"] for entry in smooth.metadata["equalized"]] == list(GRAPHS["vit"][2])
    assert smooth.metadata["equalized"][0]["nodes"] == [
        "attention_query/MatMul", "attention_key/MatMul", "attention_value/MatMul",
    ]  # fmt: skip
    assert smooth.metadata["quantized_nodes"] == plain.metadata["quantized_nodes"]


def test_layers_that_stay_float_are_left_alone(tmp_path):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    result = quantized(artifact, tmp_path / "q", {"x": x}, equalize=0.5, exclude=("mlp_0/*",))
    assert [entry["producer"] for entry in result.metadata["equalized"]] == ["norm1/LayerNormalization"]


def test_dead_channels_keep_the_scale_one(tmp_path):
    artifact, x = built(RELU, tmp_path / "float.onnx"), samples((16,))
    model = onnx.load(artifact.path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == "b1":
            values[5] = -1000  # never passes the ReLU
        if tensor.name == "w2":
            values[7] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, artifact.path)
    after, _ = equalized(artifact.path, x, 0.5)
    onnx.save(after, tmp_path / "equalized.onnx")
    assert sqnr_db(answers(artifact.path, x), answers(tmp_path / "equalized.onnx", x)) > 110


@pytest.mark.parametrize("alpha", [0, 1, -0.5, 1.5])
def test_alpha_lies_between_0_and_1(alpha):
    with pytest.raises(ValidationError):
        static.Options(equalize=alpha)
