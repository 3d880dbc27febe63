"""A channel whose weights are next to nothing and whose bias is not keeps its bias, in every form of INT8."""

import numpy as np
import onnx
import pytest
from float_graphs import answers, built, quantized, samples, sqnr_db
from onnx import numpy_helper

from mmdeploy.core.contracts import Encoding
from mmdeploy.core.sessions import AS_WRITTEN, open_session

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
LINEAR = HEAD + (
    "g (float[n, 16] x) => (float[n, 8] y) <float[16, 16] w, float[16] c, float[16, 8] v, float[8] d>"
    "{ [a] h = Gemm (x, w, c) r = Relu (h) [b] y = Gemm (r, v, d) }"
)
SPLIT = LINEAR.replace("h = Gemm (x, w, c)", "p = MatMul (x, w) h = Add (p, c)")
CONV = HEAD + (
    "g (float[n, 4, 6, 6] x) => (float[n, 6, 4, 4] y) <float[16, 4, 3, 3] w, float[16] c, float[6, 16, 1, 1] v,"
    " float[6] d> { [a] h = Conv (x, w, c) r = Relu (h) [b] y = Conv (r, v, d) }"
)
FORMS = {"linear": (LINEAR, (16,), 1), "split": (SPLIT, (16,), 1), "conv": (CONV, (4, 6, 6), 0)}


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(("factor", "bias"), [(1e-12, 3.0), (1e-9, 100.0), (1e-30, 0.0), (1e-37, 1e-3)])
@pytest.mark.parametrize("form", FORMS)
def test_dying_channel(tmp_path, form, factor, bias, encoding):
    text, shape, axis = FORMS[form]
    artifact, x = built(text, tmp_path / "float.onnx"), samples(shape, count=32)
    model = onnx.load(artifact.path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == "w":
            np.moveaxis(values, axis, 0)[2] *= np.float32(factor)
        if tensor.name == "c":
            values[2] = bias
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, artifact.path)
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=encoding, bias="auto")
    expected = answers(artifact.path, x)
    written = open_session(result.path, {}, graph_level=AS_WRITTEN).run(None, {"x": x})[0]
    for found in (answers(result.path, x), written):
        assert sqnr_db(expected, found) > 30


def test_other_channels_keep_their_scales(tmp_path):
    """Bit for bit those that ONNX Runtime's quantizer gives."""
    scales = []
    for factor in (1.0, 1e-12):
        artifact = built(LINEAR, tmp_path / f"{factor}.onnx")
        model = onnx.load(artifact.path)
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
        values = numpy_helper.to_array(weight).copy()
        values[:, 2] *= np.float32(factor)
        weight.CopyFrom(numpy_helper.from_array(values, "w"))
        onnx.save(model, artifact.path)
        result = quantized(artifact, tmp_path / f"q{factor}", {"x": samples((16,))}, encoding=Encoding.INT8_SYMMETRIC)
        known = {tensor.name: tensor for tensor in onnx.load(result.path).graph.initializer}
        scales.append(numpy_helper.to_array(known["w_scale"]))
    assert scales[1][2] < scales[0][2]
    np.testing.assert_array_equal(np.delete(scales[0], 2), np.delete(scales[1], 2))
