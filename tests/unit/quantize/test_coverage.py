"""What of a written graph is in INT8, and in which words that is said."""

import onnx
import pytest
from float_graphs import GRAPHS, built, context_of, quantized, samples

from mmdeploy.core.facts import find
from mmdeploy.quantize import dynamic
from mmdeploy.quantize.coverage import COVERAGE, Coverage, measure
from mmdeploy.report.coverage import cells, share_text

RECURRENT = """
<ir_version: 10, opset_import: ["" : 20]>
rnn (float[steps, batch, 8] x) => (float[batch, 4] y)
<float[1, 64, 8] w, float[1, 64, 16] r, float[16, 4] p, int64[1] axis = {0}>
{
  [first__LSTM] a, h, c = LSTM <hidden_size = 16> (x, w, r)
  [last__Squeeze] s = Squeeze (h, axis)
  [head__MatMul] y = MatMul (s, p)
}
"""


def of(artifact) -> Coverage:
    found = find(Coverage, artifact.metadata, under=COVERAGE)
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "layers"), [("mlp", 2), ("conv", 1), ("vit", 6)])
def test_every_layer_of_a_plain_graph_is_covered(name, layers, tmp_path):
    text, shape = GRAPHS[name]
    artifact = built(text, tmp_path / "float.onnx")
    before = measure(onnx.load(artifact.path))
    assert (before.layers, before.int8_layers, before.int8_weights) == (layers, 0, 0)
    found = of(quantized(artifact, tmp_path / "q", {"x": samples(shape)}))
    assert (found.layers, found.int8_layers, dict(found.float_layers)) == (layers, layers, {})
    assert 0.8 < found.int8_weights / found.weights <= 1


def test_layers_that_are_left_out_are_named(tmp_path):
    artifact = built(GRAPHS["vit"][0], tmp_path / "float.onnx")
    found = of(quantized(artifact, tmp_path / "q", {"x": samples((9, 16))}, exclude=("mlp_0/*",)))
    assert (found.layers, found.int8_layers, dict(found.float_layers)) == (6, 5, {"mlp_0/MatMul": "MatMul"})


def test_a_recurrent_layer_is_one_that_stays_in_floating_point(tmp_path):
    artifact = built(RECURRENT, tmp_path / "float.onnx")
    made = quantized(artifact, tmp_path / "q", {"x": samples((40, 8)).transpose(1, 0, 2)}, batch=40)
    found = of(made)
    assert (found.layers, found.int8_layers) == (2, 1)
    assert (found.int8_weights, found.weights) == (64, 64 * 24 + 64)
    assert cells("ea", found) == ("ea", "1 of 2", "4 %", "in floating point: 1 LSTM (first/LSTM)")


def test_dynamic_quantization_counts_too(tmp_path):
    artifact = built(GRAPHS["mlp"][0], tmp_path / "float.onnx")
    context = context_of(tmp_path / "d", None)
    found = of(dynamic.run(artifact, dynamic.Options(), _with_examples(context)))
    assert (found.layers, found.int8_layers) == (2, 2)


def _with_examples(context):
    from dataclasses import replace

    return replace(context, examples=lambda size: {"x": samples((16,), size)})


@pytest.mark.parametrize(
    ("int8", "weights", "text"),
    [(0, 10, "0.0 %"), (10, 10, "100 %"), (9_999_999, 10_000_000, "> 99.9 %"), (973, 1000, "97 %"), (3, 1000, "0.3 %")],
)
def test_a_share_never_says_all_where_something_is_left(int8, weights, text):
    assert share_text(Coverage(1, 1, weights, int8, {})) == text
