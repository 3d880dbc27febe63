"""An engine that answers something else than its own graph gets another form of it, or is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmdeploy.core.agreement import Noise
from mmdeploy.core.errors import EngineError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.sessions import AS_WRITTEN, SessionRunner, open_session
from mmdeploy.engines import onnxruntime as ort_engine
from mmdeploy.engines import own_graph
from mmdeploy.engines.int8_forms import is_quantized, leave_in_float, quantized_nodes, uint8_from_int8

NUMBERS = "<float i = {0.03}, float j = {0.05}, float k = {0.05}, int8 z = {0}, float[16] s, float[8] t>"
#: Two products in INT8 with something between them, as a quantizer writes it.
INT8 = f"""g (float[N, 16] x) => (float[N, 8] y) {NUMBERS} {{
    q = QuantizeLinear (x, i, z) d = DequantizeLinear (q, i, z)
    v = DequantizeLinear <axis = 1> (w1, s)
    [first] h = MatMul (d, v)
    hq = QuantizeLinear (h, j, z) hd = DequantizeLinear (hq, j, z)
    [between] r = Relu (hd)
    rq = QuantizeLinear (r, k, z) rd = DequantizeLinear (rq, k, z)
    u = DequantizeLinear <axis = 1> (w2, t)
    [second] y = MatMul (rd, u)
}}"""
FLOAT = "g (float[N, 16] x) => (float[N, 8] y) { [first] h = MatMul (x, a) r = Relu (h) [second] y = MatMul (r, b) }"


@pytest.fixture
def int8(make_onnx):
    random = np.random.default_rng(3)
    codes = {"w1": random.integers(-127, 128, (16, 16), np.int8), "w2": random.integers(-127, 128, (16, 8), np.int8)}
    scales = {"s": np.full(16, 0.004, np.float32), "t": np.full(8, 0.004, np.float32)}
    source = make_onnx(INT8, weights=codes | scales)
    return replace(source, metadata=as_metadata(Noise({"y": 35.0})))


def wrong_where(spoilt):
    """Return what builds a real engine, ONNX Runtime, which is wrong by a third wherever ``spoilt`` says so."""

    def build(graph: Path) -> SessionRunner:
        model = onnx.load(graph)
        if spoilt(model):
            last = next(node for node in model.graph.node if "y" in node.output)
            last.output[0] = "right"
            model.graph.initializer.append(numpy_helper.from_array(np.array(1.33, np.float32), "third"))
            model.graph.node.append(onnx.helper.make_node("Mul", ["right", "third"], ["y"]))
        return SessionRunner(open_session(model.SerializeToString(), {}))

    return build


def settled(source, context, build):
    graph = context.workdir / "model.onnx"
    graph.write_bytes(source.path.read_bytes())
    runner, own = own_graph.settle(source, graph, context, build, whose="this engine")
    feed = context.examples(6)
    written = SessionRunner(open_session(graph, {}, graph_level=AS_WRITTEN)).infer(feed)["y"]
    np.testing.assert_allclose(runner.infer(feed)["y"], written, atol=0.05)
    return graph, own


def reads_rounded(name):
    return lambda model: name in quantized_nodes(model)


def test_an_engine_that_is_right_keeps_its_graph(int8, make_context):
    context = make_context(int8)
    graph, own = settled(int8, context, wrong_where(lambda model: False))
    assert graph.read_bytes() == int8.path.read_bytes()
    assert own == own_graph.OwnGraph("its graph as written, in ONNX Runtime, at batch 4 and 1")


def test_the_same_numbers_in_uint8_come_first(int8, make_context):
    def signed(model):
        return any(
            weight.name == "z" and weight.data_type == onnx.TensorProto.INT8 for weight in model.graph.initializer
        )

    graph, own = settled(int8, make_context(int8), wrong_where(signed))
    assert own.reencoded
    assert not own.float_nodes
    assert "UINT8 around 128" in own.warnings[0]
    assert len(quantized_nodes(onnx.load(graph))) == 3


@pytest.mark.parametrize("name", ["first", "between", "second"])
def test_the_node_that_an_engine_gets_wrong_is_left_in_float(int8, make_context, name):
    graph, own = settled(int8, make_context(int8), wrong_where(reads_rounded(name)))
    assert own.float_nodes == (name,)
    assert f"1 of 3 nodes are left in float: {name}" in own.warnings[0]
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    assert set(quantized_nodes(model)) == {"first", "between", "second"} - {name}


@pytest.mark.parametrize("spoilt", [is_quantized, lambda model: True], ids=["int8", "always"])
def test_an_engine_that_is_wrong_in_every_form_is_refused(int8, make_context, spoilt):
    with pytest.raises(
        EngineError, match=r"encoder: this engine answers .*: output 'y' at batch 4: 9\.6 dB, at least 29"
    ):
        settled(int8, make_context(int8), wrong_where(spoilt))


def test_a_float_graph_has_no_other_form(make_onnx, make_context):
    random = np.random.default_rng(0)
    source = make_onnx(
        FLOAT, weights={"a": random.random((16, 16), np.float32), "b": random.random((16, 8), np.float32)}
    )
    with pytest.raises(EngineError, match=r"output 'y' at batch 4: 9\.6 dB, at least 50"):
        settled(source, make_context(source), wrong_where(lambda model: True))


def test_an_engine_that_is_wrong_at_batch_1_only_is_refused(make_onnx, make_context):
    """Its answer depends on the size of the batch: what is asked at one size shows nothing of another."""
    source = make_onnx("g (float[N, 4] x) => (float[N, 4] y) { y = Mul (x, x) }")

    def build(graph):
        text = """g (float[N, 4] x) => (float[N, 4] y) <int64 one = {1}> {
            n = Shape <end = 1> (x) s = Squeeze (n) e = Equal (s, one) f = Cast <to = 1> (e)
            p = Mul (x, x) y = Add (p, f) }"""
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
        return SessionRunner(open_session(model.SerializeToString(), {}))

    with pytest.raises(EngineError, match="output 'y' at batch 1"):
        settled(source, make_context(source), build)
    batched = make_context(source, max_batch_size=1)
    with pytest.raises(EngineError, match="output 'y' at batch 1"):
        settled(source, batched, build)


def test_a_sample_whose_answer_is_next_to_zero_is_judged_by_the_others(int8, make_context):
    context = make_context(int8)

    def examples(size):
        x = context.examples(size)["x"]
        x[0] *= 1e-6
        return {"x": x}

    settled(int8, replace(context, examples=examples), wrong_where(lambda model: False))


def test_onnxruntime_says_what_it_was_compared_with(int8, make_context):
    built = ort_engine.run(int8, ort_engine.Options(), make_context(int8))
    assert built.metadata["compared"] == "its graph as written, in ONNX Runtime, at batch 4 and 1"
    assert built.metadata["float_nodes"] == []


def test_uint8_is_written_only_for_zeros_that_are_known(int8):
    model = onnx.load(int8.path)
    zero = next(weight for weight in model.graph.initializer if weight.name == "z")
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), "z"))
    before = model.SerializeToString()
    assert not uint8_from_int8(model)
    assert model.SerializeToString() == before


def test_everything_left_in_float_is_the_float_graph(int8, make_context):
    model, x = onnx.load(int8.path), make_context(int8).examples(5)["x"]
    constants = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    leave_in_float(model, quantized_nodes(model))
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 0
    expected = np.maximum(x @ (constants["w1"] * constants["s"]), 0) @ (constants["w2"] * constants["t"])
    session = open_session(model.SerializeToString(), {}, graph_level=AS_WRITTEN)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-4)
