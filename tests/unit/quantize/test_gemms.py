"""Factors and biases of every form survive quantization, in the graph as written, in ONNX Runtime and in OpenVINO."""

import numpy as np
import onnx
import pytest
from float_graphs import answers, built, quantized, samples, sqnr_db
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.core.contracts import Encoding
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.sessions import AS_WRITTEN, open_session
from mmdeploy.quantize import gemms

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
GEMM = HEAD + "g (float[n, 8] x) => (float[n, 6] y) <{weights}> {{ [layer] y = Gemm <{attributes}> (x, w, {bias}) }}"


def gemm(weights: str, attributes: str = "alpha = 1.0", bias: str = "c") -> str:
    return GEMM.format(weights=weights, attributes=attributes, bias=bias)


BIASED = {
    "factors": gemm("float[8, 6] w, float[6] c", "alpha = 0.5, beta = 0.25"),
    "turned": gemm("float[6, 8] w, float[6] c", "transB = 1, beta = 4.0"),
    "one number": gemm("float[8, 6] w, float[1] c", "beta = 3.0"),
    "scalar": gemm("float[8, 6] w, float c", "beta = 3.0"),
    "row": gemm("float[8, 6] w, float[1, 6] c", "beta = 3.0"),
    "none": HEAD + "g (float[n, 8] x) => (float[n, 6] y) <float[8, 6] w> { [layer] y = Gemm <alpha = 2.0> (x, w) }",
    "computed": HEAD
    + """g (float[n, 8] x) => (float[n, 8] y) <float[8, 8] w>
         { t = Tanh (x) [layer] y = Gemm <alpha = 2.0, beta = 3.0> (x, w, t) }""",
    "added": HEAD
    + """g (float[n, 8] x) => (float[n, 6] y) <float[8, 6] w, float[1] c>
         { [layer] z = MatMul (x, w) y = Add (z, c) }""",
}


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("form", BIASED)
def test_int8_answers_as_the_float_graph(tmp_path, form, encoding):
    artifact, x = built(BIASED[form], tmp_path / "float.onnx"), samples((8,))
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=encoding)
    assert result.metadata["quantized_nodes"] == ["layer"]
    expected = answers(artifact.path, x)
    written = open_session(result.path, {}, graph_level=AS_WRITTEN).run(None, {"x": x})[0]
    for found in (answers(result.path, x), written):
        assert sqnr_db(expected, found) > 30


def test_a_gemm_with_a_transposed_input_stays_float_and_says_so(tmp_path):
    text = (
        HEAD
        + """g (float[n, 8] x) => (float[n, 6] y) <float[8, 6] w, float[6] c, float[6, 6] v> {
        z = Transpose (x) [first] h = Gemm <transA = 1, beta = 2.0> (z, w, c) [second] y = Gemm (h, v) }"""
    )
    artifact, x = built(text, tmp_path / "float.onnx"), samples((8,))
    result = quantized(artifact, tmp_path / "q", {"x": x})
    assert result.metadata["excluded_nodes"] == {"first": "its input is transposed"}
    assert sqnr_db(answers(artifact.path, x), answers(result.path, x)) > 30
    with pytest.raises(QuantizeError, match="its input is transposed"):
        quantized(artifact, tmp_path / "r", {"x": x}, exclude=("second",))


@settings(max_examples=40, deadline=None)
@given(
    alpha=st.floats(-4, 4, width=32), beta=st.floats(-4, 4, width=32), turned=st.booleans(),
    shape=st.sampled_from(((), (1,), (6,), (1, 1), (1, 6), (5, 1), (5, 6))),
)  # fmt: skip
def test_rewriting_changes_no_answer(alpha, beta, turned, shape):
    random = np.random.default_rng(1)
    weight = random.standard_normal((6, 8) if turned else (8, 6)).astype(np.float32)
    bias, x = random.standard_normal(shape).astype(np.float32), random.standard_normal((5, 8)).astype(np.float32)
    text = gemm("float[1] unused", f"alpha = {alpha:.6f}, beta = {beta:.6f}, transB = {int(turned)}")
    model = onnx.parser.parse_model(text)
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(*one) for one in ((weight, "w"), (bias, "c")))
    before = open_session(model.SerializeToString(), {}).run(None, {"x": x})[0]
    gemms.write_plainly(model)
    onnx.checker.check_model(model, full_check=True)
    assert not {one.name for node in model.graph.node for one in node.attribute} & {"alpha", "beta"}
    after = open_session(model.SerializeToString(), {}).run(None, {"x": x})[0]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_weights_with_a_factor_replace_those_without(tmp_path):
    model = onnx.load(built(BIASED["factors"], tmp_path / "float.onnx").path)
    gemms.write_plainly(model)
    assert len(model.graph.initializer) == 2


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(("groups", "weight"), [(1, "4, 6"), (2, "4, 3"), (4, "4, 2")])
def test_transposed_convolution_in_groups(tmp_path, groups, weight, encoding):
    channels = groups * int(weight[-1])
    text = (
        HEAD
        + f"""g (float[n, 4, 6, 6] x) => (float[n, {channels}, 8, 8] y) <float[{weight}, 3, 3] w, float[{channels}] c>
              {{ [layer] y = ConvTranspose <group = {groups}> (x, w, c) }}"""
    )
    artifact, x = built(text, tmp_path / "float.onnx"), samples((4, 6, 6), count=32)
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=encoding, op_types=("ConvTranspose",))
    assert sqnr_db(answers(artifact.path, x), answers(result.path, x)) > 30
