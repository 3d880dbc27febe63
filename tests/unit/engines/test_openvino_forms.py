"""What OpenVINO's CPU plugin is fast on has the numbers of what it is made of."""

import numpy as np
import onnx
import pytest

from mmdeploy.engines.openvino_forms import read_keys_transposed

ov = pytest.importorskip("openvino", reason="needs openvino (the extra cpu brings it)")

HEAD = '<ir_version: 10, opset_import: ["": 20]>'


def model_of(folder, keys: str):
    text = f"""{HEAD} g (float[N,2,5,4] q, float[N,2,5,4] k, float[N,2,4,5] t) => (float[N,2,5,5] y)
        <float half = {{0.5}}, float[1,2,1,1] each = {{0.5, 2.0}}> {{ {keys} y = MatMul(q, s) }}"""
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return ov.Core().read_model(path)


def answer(model, feeds):
    properties = {"INFERENCE_PRECISION_HINT": "f32"}
    return next(iter(ov.Core().compile_model(model, "CPU", properties).infer_new_request(feeds).values()))


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        ("s = Transpose<perm=[0,1,3,2]>(k)", 1),
        ("r = Transpose<perm=[0,1,3,2]>(k) s = Mul(r, half)", 1),
        ("r = Transpose<perm=[0,1,3,2]>(k) s = Mul(r, each)", 0),  # a scale a head: left as it is
        ("s = Identity(t)", 0),
        ("r = Transpose<perm=[0,1,3,2]>(k) s = Relu(r)", 0),
    ],
)
def test_keys_are_read_transposed_with_the_same_answers(tmp_path, keys, taken):
    random = np.random.default_rng(0)
    shapes = {"q": (3, 2, 5, 4), "k": (3, 2, 5, 4), "t": (3, 2, 4, 5)}
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    before, after = model_of(tmp_path, keys), model_of(tmp_path, keys)
    assert read_keys_transposed(after) == taken
    left = [node for node in after.get_ordered_ops() if node.get_type_name() == "Transpose"]
    assert bool(left) == (not taken and "Transpose" in keys)
    assert [port.get_any_name() for port in after.outputs] == ["y"]
    np.testing.assert_allclose(answer(after, feeds), answer(before, feeds), rtol=1e-6)
