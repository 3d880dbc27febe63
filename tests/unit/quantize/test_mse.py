"""The range of smallest squared error, against ONNX Runtime's own QuantizeLinear and a search by SciPy."""

import numpy as np
import onnxruntime as ort
import pytest
from float_graphs import VIT, activations_of, built, quantized, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, load
from scipy import optimize

from mmdeploy.core.contracts import Array, Encoding
from mmdeploy.quantize import mse

_PAIR = helper.make_model(
    helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
        ],
        "pair",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("zero", TensorProto.UINT8, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    ),
    opset_imports=[helper.make_opsetid("", 20)],
    ir_version=10,
)
SESSION = ort.InferenceSession(_PAIR.SerializeToString())


def error(values: Array, low: float, high: float, *, symmetric: bool) -> float:
    """Return the mean squared error of ONNX Runtime's codes over a range."""
    low, high = min(low, 0.0), max(high, 0.0)
    limit = max(-low, high)
    scale = np.array(2 * limit / 254 if symmetric else (high - low) / 255, np.float32)
    zero = np.array(128 if symmetric else np.rint(-low / scale), np.uint8)
    rounded = SESSION.run(None, {"x": values, "scale": scale, "zero": zero})[0]
    return float(np.mean(np.square(rounded.astype(np.float64) - values)))


def found_for(values: Array, *, symmetric: bool) -> tuple[float, float]:
    limit = np.abs(values).max()
    counts, edges = np.histogram(values, mse.BINS, range=(-limit, limit))
    extremes = (float(values.min()), float(values.max()))
    return mse.limits(counts, edges.astype(np.float32), extremes, symmetric=symmetric)


def best_by_search(values: Array, *, symmetric: bool) -> float:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if symmetric:
        limit = max(-low, high)
        return min(error(values, -limit * part, limit * part, symmetric=True) for part in np.geomspace(0.01, 1, 400))
    return float(
        optimize.brute(
            lambda ends: error(values, low * ends[0], high * ends[1], symmetric=False),
            ranges=((0.05, 1.0), (0.05, 1.0)),
            Ns=30,
            full_output=True,
            finish=None,
        )[1]
    )


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    power=st.sampled_from([1, 3]),
    shift=st.floats(-2, 2),
    relu=st.booleans(),
    symmetric=st.booleans(),
)
def test_no_other_range_is_better(seed, power, shift, relu, symmetric):
    values = np.random.default_rng(seed).standard_normal(4000) ** power + shift
    values = (np.maximum(values, 0) if relu else values).astype(np.float32)
    if not values.any():
        return
    low, high = found_for(values, symmetric=symmetric)
    assert values.min() <= low <= high <= values.max() or low * high <= 0
    ours = error(values, low, high, symmetric=symmetric)
    assert ours <= 1.02 * best_by_search(values, symmetric=symmetric)
    assert ours <= 1.001 * error(values, float(values.min()), float(values.max()), symmetric=symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_far_value_is_cut_off_and_an_even_spread_is_not(symmetric):
    random = np.random.default_rng(0)
    stray = np.append(random.standard_normal(1_000_000), 15.0).astype(np.float32)
    low, high = found_for(stray, symmetric=symmetric)
    assert high < 12
    even = random.uniform(-1, 1, 100_000).astype(np.float32)
    low, high = found_for(even, symmetric=symmetric)
    assert low < -0.97 and high > 0.97


@pytest.mark.parametrize("encoding", [Encoding.INT8_SYMMETRIC, Encoding.UINT8_ASYMMETRIC])
def test_ranges_of_a_graph_are_the_best_on_its_activations(tmp_path, encoding):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    result = quantized(artifact, tmp_path / "q", {"x": x}, calibrator="mse", encoding=encoding, batch=7)
    symmetric = encoding is Encoding.INT8_SYMMETRIC
    found = result.metadata["ranges"]
    activations = activations_of(load(artifact.path), found, x)
    for name, (low, high) in found.items():
        values = activations[name].ravel()
        assert error(values, low, high, symmetric=symmetric) <= 1.02 * best_by_search(values, symmetric=symmetric)
