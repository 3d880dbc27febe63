"""Where INT8 leaves too little of the answers the worst nodes stay float, named; where that does not help, it stops."""

import onnx
import pytest
from float_graphs import MLP, answers, built, quantized, samples, sqnr_db
from onnx import numpy_helper

from mmdeploy.core.contracts import Encoding
from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize import giving_back

#: One channel is so large that all others are rounded to nothing, and counts for nothing behind it.
DROWNED = MLP.replace("a = Tanh (h)", "s = Tanh (h) a = Mul (s, size)").replace(
    "float[8] b2>", "float[8] b2, float[32] size>"
)


def drowned(path):
    artifact = built(DROWNED, path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == "size":
            values[:] = 1
            values[3] = 1e5
        if tensor.name == "w2":
            values[:, 3] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return artifact


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_worst_node_goes_back_to_float_and_is_named(tmp_path, encoding):
    artifact, x = drowned(tmp_path / "float.onnx"), samples((16,))
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=encoding)
    assert result.metadata["quantized_nodes"] == ["first"]
    assert "dB alone" in result.metadata["excluded_nodes"]["second"]
    assert result.metadata["warnings"] == ["left in float, since INT8 takes too much there: second"]
    assert sqnr_db(answers(artifact.path, x), answers(result.path, x)) > 30


def test_a_graph_without_a_node_to_spare_is_refused(tmp_path):
    artifact, x = drowned(tmp_path / "float.onnx"), samples((16,))
    with pytest.raises(
        QuantizeError, match=r"part: INT8 leaves too little of output 'y': .*the worst nodes are second"
    ):
        quantized(artifact, tmp_path / "q", {"x": x}, exclude=("first",))


def test_a_graph_that_is_good_enough_is_left_alone(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,))
    result = quantized(artifact, tmp_path / "q", {"x": x})
    assert result.metadata["quantized_nodes"] == ["first", "second"]
    assert result.metadata["warnings"] == []


def test_portions_double_and_leave_something():
    assert giving_back.portions(list("abcdefg"), 7) == [["a"], ["a", "b"], ["a", "b", "c", "d"]]
    assert giving_back.portions(list("ab"), 2) == [["a"]]
    assert giving_back.portions(["a"], 1) == []


def test_the_worst_nodes_are_told_of_a_graph_that_is_good_enough(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,))
    result = quantized(artifact, tmp_path / "q", {"x": x})
    worst = result.metadata["worst_nodes"]
    assert set(worst) == {"first", "second"}
    assert list(worst.values()) == sorted(worst.values())
    assert min(worst.values()) >= result.metadata["sqnr_db"]["y"] - 6, "one node alone is not noisier than all of them"


def test_a_node_that_was_given_back_is_not_told_as_the_worst(tmp_path):
    artifact, x = drowned(tmp_path / "float.onnx"), samples((16,))
    assert set(quantized(artifact, tmp_path / "q", {"x": x}).metadata["worst_nodes"]) == {"first"}


def test_nodes_that_cannot_be_run_alone_are_not_told(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,))
    graph = onnx.load(quantized(artifact, tmp_path / "q", {"x": x}).path)
    model = onnx.load(artifact.path)
    graph.graph.node[0].domain = "nobody.knows"
    assert giving_back.worst_nodes(model, graph, ["first"], {"x": x}, threads=1).worst_nodes == {}


def test_what_the_recipe_asks_for_in_db_is_left_at_the_outputs(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,))
    plain = quantized(artifact, tmp_path / "plain", {"x": x}).metadata
    asked = plain["sqnr_db"]["y"] + 1
    result = quantized(artifact, tmp_path / "asked", {"x": x}, min_sqnr_db=asked)
    assert result.metadata["sqnr_db"]["y"] >= asked
    assert len(result.metadata["quantized_nodes"]) == 1
    assert result.metadata["warnings"] == [], "what was asked for is no reason to warn"


def test_db_that_no_quantization_leaves_are_refused(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,))
    with pytest.raises(
        QuantizeError, match=r"too little of output 'y': .* dB, the least is 60 dB; the worst nodes are"
    ):
        quantized(artifact, tmp_path / "q", {"x": x}, min_sqnr_db=60)


def test_of_nodes_with_equal_noise_the_small_one_goes_first():
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        g (float[1,8] x) => (float[1,4] y) <float[8,64] big = {0}, float[64,4] small = {0}> {
        [wide] h = MatMul(x, big) [narrow] y = MatMul(h, small) }""")
    assert giving_back.for_their_size({"wide": 30.0, "narrow": 31.0}, model) == ["narrow", "wide"]
    assert giving_back.for_their_size({"wide": 30.0, "narrow": 36.0}, model) == ["wide", "narrow"]
