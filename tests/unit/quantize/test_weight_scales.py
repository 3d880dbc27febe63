"""Weight scales that training has found are written bit for bit, whatever the encoding."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from float_graphs import CONV, MLP, VIT, activations_of, built, samples
from onnx import numpy_helper

from mmdeploy.core.contracts import Array, Encoding
from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize import encode, graphs, selection
from mmdeploy.quantize.scheme import Scheme

#: Node, its weight, the axis of output channels and their number.
LAYERS = {
    "mlp": (MLP, (16,), (("first", "w1", 1, 32), ("second", "w2", 0, 8))),
    "conv": (CONV, (3, 8, 8), (("c/Conv", "w", 0, 4),)),
    "vit": (VIT, (9, 16), (("attention_query/MatMul", "wq", 1, 16), ("mlp_0/MatMul", "wu", 1, 32))),
}


def written(
    tmp_path: Path, text: str, shape: tuple[int, ...], scales: Mapping[str, Array], **options
) -> onnx.ModelProto:
    encoding = options.pop("encoding", Encoding.INT8_SYMMETRIC)
    scheme = Scheme(**options)
    model = graphs.load(built(text, tmp_path / "float.onnx").path)
    chosen = selection.choose(model, scheme)
    x = samples(shape)
    ranges = {name: (float(a.min()), float(a.max())) for name, a in activations_of(model, chosen.tensors, x).items()}
    return encode.write(model, chosen, ranges, encoding=encoding, scheme=scheme, weight_scales=scales)


def stored(model: onnx.ModelProto, weight: str) -> tuple[Array, Array, int | None]:
    """Return codes, scale and axis of a weight."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    node = next(
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] == f"{weight}_quantized"
    )
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
    assert not constants[node.input[2]].any()
    return constants[node.input[0]], constants[node.input[1]], axis


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("by", ["node", "weight"])
@pytest.mark.parametrize("graph", LAYERS)
def test_given_scales_are_written_bit_for_bit(tmp_path, graph, by, encoding):
    text, shape, layers = LAYERS[graph]
    random = np.random.default_rng(1)
    scales = {
        (node if by == "node" else weight): (random.random(channels) / 100 + 1e-3).astype(np.float32)
        for node, weight, _, channels in layers
    }
    model = written(tmp_path, text, shape, scales, encoding=encoding)
    original = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "float.onnx").graph.initializer
    }
    for node, weight, axis, _ in layers:
        codes, scale, found = stored(model, weight)
        given = scales[node if by == "node" else weight]
        assert found == axis
        assert scale.tobytes() == given.tobytes()
        wide = np.expand_dims(given, tuple(other for other in range(codes.ndim) if other != axis))
        np.testing.assert_array_equal(codes, np.clip(np.rint(original[weight] / wide), -128, 127))


def test_one_scale_for_the_whole_weight(tmp_path):
    model = written(tmp_path, VIT, (9, 16), {"mlp_0/MatMul": np.float32(0.0123)})
    _, scale, axis = stored(model, "wu")
    assert (scale.shape, axis) == ((), None)
    assert scale.tobytes() == np.float32(0.0123).tobytes()
    assert stored(model, "wd")[1].shape == (16,)  # the others keep their own, one a channel


def test_scales_a_channel_outrank_one_scale_for_all_weights(tmp_path):
    given = np.linspace(0.001, 0.01, 32, dtype=np.float32)
    model = written(tmp_path, VIT, (9, 16), {"wu": given}, per_channel=False)
    assert stored(model, "wu")[1].tobytes() == given.tobytes()
    assert stored(model, "wd")[1].shape == ()


def test_channel_of_zeros_gets_the_scale_one(tmp_path, monkeypatch):
    given = np.full(8, 0.01, np.float32)
    given[3] = 0
    with pytest.raises(QuantizeError, match="a weight scale is zero though its weights are not"):
        written(tmp_path, MLP, (16,), {"second": given})
    model = onnx.load(tmp_path / "float.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    values = numpy_helper.to_array(tensor).copy()
    values[3] = 0
    tensor.CopyFrom(numpy_helper.from_array(values, "w2"))
    onnx.save(model, tmp_path / "float.onnx")
    monkeypatch.setattr("test_weight_scales.built", lambda text, path: type("Built", (), {"path": path}))
    codes, scale, _ = stored(written(tmp_path, MLP, (16,), {"second": given}), "w2")
    assert scale[3] == 1 and not codes[3].any()


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"secnd": np.ones(8)}, "neither a quantized node"),
        ({"act": np.ones(8)}, "neither a quantized node"),
        ({"second": np.ones(7)}, r"\[7\] scales are given for a weight of shape \[8, 16\]"),
        ({"second": np.ones((8, 16))}, r"\[8, 16\] scales are given"),
        ({"second": -np.ones(8)}, "negative"),
        ({"second": np.full(8, np.nan)}, "NaN"),
        ({"second": np.ones(8), "w2": np.full(8, 2)}, "is shared"),
    ],
)
def test_scales_that_do_not_fit_are_refused(tmp_path, scales, message):
    text = MLP.replace("8, 32] w2", "8, 16] w2").replace("16, 32] w1, float[32]", "16, 16] w1, float[16]")
    with pytest.raises(QuantizeError, match=message):
        written(tmp_path, text, (16,), scales)


def test_nearest_name_is_offered(tmp_path):
    with pytest.raises(QuantizeError) as error:
        written(tmp_path, MLP, (16,), {"secnd": np.ones(8)})
    assert error.value.hint is not None and "did you mean 'second'?" in error.value.hint


def test_scale_too_small_for_an_int32_bias_is_refused(tmp_path):
    given = np.full(8, 0.01, np.float32)
    given[2] = 1e-12
    with pytest.raises(QuantizeError, match="INT32 bias overflows") as error:
        written(tmp_path, MLP, (16,), {"second": given}, encoding=Encoding.UINT8_ASYMMETRIC)
    assert error.value.hint == "write biases in float (bias: float)"
    model = written(tmp_path, MLP, (16,), {"second": given}, encoding=Encoding.UINT8_ASYMMETRIC, bias="float")
    assert stored(model, "w2")[1].tobytes() == given.tobytes()
