"""A quantized graph that does not run, is not finite or does not answer twice the same is refused."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from float_graphs import MLP, built, quantized, samples
from onnx import numpy_helper

from mmdeploy.core.agreement import Expected
from mmdeploy.core.contracts import Encoding
from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize import fidelity
from mmdeploy.quantize.held_out import HeldOut

HEAD = '<ir_version: 10, opset_import: ["" : 20]> g (float[n, 4] x) => (float[n, 4] y) '


def graph(path: Path, body: str) -> Path:
    onnx.save(onnx.parser.parse_model(HEAD + "{ " + body + " }"), path)
    return path


FEEDS = [{"x": np.random.default_rng(seed).standard_normal((8, 4)).astype(np.float32)} for seed in range(3)]


def compare(tmp_path: Path, quantized: str):
    held = HeldOut(graph(tmp_path / "a.onnx", "y = Tanh (x)"), FEEDS, threads=1)
    return fidelity.compare(held, graph(tmp_path / "b.onnx", quantized), [{"x": FEEDS[0]["x"][:4]}])


def test_likeness_of_equal_and_scaled_graphs(tmp_path):
    equal = compare(tmp_path, "y = Tanh (x)")
    assert equal.cosine["y"] == pytest.approx(1)
    assert equal.sqnr_db["y"] is None
    scaled = compare(tmp_path, "t = Tanh (x) c = Constant <value_float = 1.1> () y = Mul (t, c)")
    assert scaled.cosine["y"] == pytest.approx(1)
    assert scaled.sqnr_db["y"] == pytest.approx(20, abs=0.01)  # noise is a tenth of the signal


def test_answers_that_the_optimizer_changes_are_refused():
    random = np.random.default_rng(0)
    plain = {"y": random.standard_normal((20, 5)), "z": np.ones((20, 3))}
    expected = Expected(quantized=True, noise_db={"y": 35.0, "z": None})
    assert fidelity.agreement(plain, plain, expected) == pytest.approx(1)
    rounded = plain["y"] + 10 ** (-35 / 20) * random.standard_normal((20, 5))  # another rounding of the whole graph
    assert fidelity.agreement(plain | {"y": rounded}, plain, expected) > 0.999
    for wrong in (random.standard_normal((20, 5)), plain["y"] * 1.05):
        with pytest.raises(QuantizeError, match=r"optimizer changes the answers .*output 'y' at batch 20"):
            fidelity.agreement(plain | {"y": wrong}, plain, expected)


def test_the_optimizer_is_held_against_the_graph_as_it_is_written(tmp_path):
    """A bias that overflows the INT32 that ONNX Runtime writes it in, at its lowest level already."""
    artifact, x = built(MLP.replace("Tanh", "Relu"), tmp_path / "float.onnx"), samples((16,))
    path = quantized(artifact, tmp_path / "q", {"x": x}, encoding=Encoding.INT8_SYMMETRIC).path
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name in ("w1_scale", "b1"):
            values[2] = {"w1_scale": 1e-14, "b1": 3.0}[tensor.name]
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    with pytest.raises(QuantizeError, match="optimizer changes the answers"):
        fidelity.compare(HeldOut(path, [{"x": x}], threads=1), path, [{"x": x[:4]}, {"x": x[:1]}])


def test_answers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(QuantizeError, match="NaN or Inf in output 'y'"):
        compare(tmp_path, "z = Sub (x, x) y = Div (x, z)")


def test_graph_that_does_not_load_is_refused(tmp_path):
    with pytest.raises(QuantizeError, match=r"ONNX Runtime cannot run b\.onnx"):
        compare(tmp_path, "y = NoSuchOperator (x)")


@pytest.mark.parametrize(("a", "b", "cosine"), [([0, 0], [0, 0], 1), ([0, 0], [1, 0], 0), ([1, 0], [-2, 0], -1)])
def test_cosine_of_degenerate_vectors(a, b, cosine):
    assert fidelity.cosine(np.array(a, np.float32), np.array(b, np.float32)) == cosine
