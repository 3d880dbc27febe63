"""Scales and codes of whole weights are those of ONNX Runtime's quantizer, which takes channel after channel."""

import numpy as np
import onnx
import onnxruntime.quantization
import pytest
from float_graphs import CONV, MLP, VIT, built
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization.quant_utils import compute_data_quant_params

from mmdeploy.core.contracts import Encoding
from mmdeploy.quantize import encode, graphs, selection, weight_codes
from mmdeploy.quantize.scheme import Scheme

GROUPS = """
<ir_version: 10, opset_import: ["" : 20]>
up (float[batch, 4, 5, 5] x) => (float[batch, 5, 11, 11] y)
<float[4, 3, 3, 3] w, float[6] b, float[5, 6, 1, 1] v, float[5] c>
{
  [up] h = ConvTranspose <group = 2, strides = [2, 2]> (x, w, b)
  [out] y = Conv (h, v, c)
}
"""
#: A left operand that is constant, and channels that have died.
LEFT = """
<ir_version: 10, opset_import: ["" : 20]>
left (float[batch, 6, 5] x) => (float[batch, 4, 3] y)
<float[4, 6] w, float[5, 3] v>
{
  [first] h = MatMul (w, x)
  [second] y = MatMul (h, v)
}
"""
GRAPHS = {"mlp": MLP, "conv": CONV, "vit": VIT, "groups": GROUPS, "left": LEFT}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("encoding", [Encoding.UINT8_ASYMMETRIC, Encoding.INT8_SYMMETRIC])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_written_as_by_the_library_alone(tmp_path, monkeypatch, name, encoding, per_channel):
    model = graphs.load(built(GRAPHS[name], tmp_path / "float.onnx").path)
    kill_a_channel(model)
    scheme = Scheme(per_channel=per_channel, op_types=("MatMul", "Gemm", "Conv", "ConvTranspose"))
    chosen = selection.choose(model, scheme)
    ranges = {tensor: (-1.5 - index, 2.0 + index) for index, tensor in enumerate(chosen.tensors)}
    ours = encode.write(model, chosen, ranges, encoding=encoding, scheme=scheme)

    library = onnxruntime.quantization.QDQQuantizer

    def alone(source, **options):
        del source.metadata_props[:]
        return library(source, **options | {"extra_options": options["extra_options"] | {"AddQDQPairToWeight": False}})

    monkeypatch.setattr(onnxruntime.quantization, "QDQQuantizer", alone)
    monkeypatch.setattr(weight_codes, "with_scales", lambda model, selection, overrides: overrides)
    monkeypatch.setattr(weight_codes, "fold", lambda model: None)
    theirs = encode.write(model, chosen, ranges, encoding=encoding, scheme=scheme)
    assert list(ours.graph.node) == list(theirs.graph.node)
    assert arrays(ours) == arrays(theirs)


def kill_a_channel(model) -> None:
    weight = next(one for one in model.graph.initializer if len(one.dims) > 1 and one.data_type == 1)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[..., 1] = 0
    values[1] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def arrays(model) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    constants = [(one.name, onnx.numpy_helper.to_array(one)) for one in model.graph.initializer]
    return [(name, str(array.dtype), array.shape, array.tobytes()) for name, array in constants]


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=5))
def test_scales_are_those_of_the_library(largest):
    theirs = [
        compute_data_quant_params(np.array([-one / 2, one], np.float32), onnx.TensorProto.INT8, symmetric=True)[1]
        for one in np.array(largest, np.float32)
    ]
    assert (
        weight_codes.natural_scales(np.array(largest, np.float32)).tobytes() == np.array(theirs, np.float32).tobytes()
    )
