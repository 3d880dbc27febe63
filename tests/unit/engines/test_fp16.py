import numpy as np
import onnx
import pytest

from mmdeploy.core.errors import EngineError
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.engines.fp16 import to_fp16
from mmdeploy.engines.fp16_emulation import emulate_fp16

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
MLP = """g (float[N,8] x) => (float[N,4] y)
   { h = MatMul(x, w)  n = LayerNormalization(h, gain, bias)  y = Softmax(n) }"""
MLP_WEIGHTS = {
    "w": np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32),
    "gain": np.ones(4, np.float32),
    "bias": np.zeros(4, np.float32),
}


def parse(text: str, weights: dict[str, np.ndarray] | None = None, opset: int = 20) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]>\n{text}')
    for name, values in (weights or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    infos = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    return infos | {tensor.name: tensor.data_type for tensor in graph.initializer}


def input_types(model: onnx.ModelProto, op_type: str) -> list[int]:
    known = types(model)
    node = next(node for node in model.graph.node if node.op_type == op_type)
    return [known[name] for name in node.input]


def answer(model: onnx.ModelProto, **feed: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    runner = SessionRunner(open_session(model.SerializeToString(), {}))
    return runner.infer(feed)[runner.outputs[0].name]


def test_matmuls_become_fp16_and_normalisations_do_not() -> None:
    converted, kept = to_fp16(parse(MLP, MLP_WEIGHTS))
    assert input_types(converted, "MatMul") == [FLOAT16, FLOAT16]
    assert input_types(converted, "LayerNormalization") == [FLOAT, FLOAT, FLOAT]
    assert input_types(converted, "Softmax") == [FLOAT]
    assert set(kept) == {"LayerNormalization_1", "Softmax_2"}
    known = types(converted)
    assert known["x"] == known["y"] == FLOAT
    onnx.checker.check_model(converted, full_check=True)


def test_nothing_is_rounded_between_two_operators_that_stay_in_fp32() -> None:
    converted, _ = to_fp16(parse(MLP, MLP_WEIGHTS))
    producer = {name: node for node in converted.graph.node for name in node.output}
    softmax = next(node for node in converted.graph.node if node.op_type == "Softmax")
    assert producer[softmax.input[0]].op_type == "LayerNormalization"


def test_a_tensor_that_two_kept_operators_read_is_cast_once() -> None:
    text = """g (float[N,8] x) => (float[N,4] y, float[N,4] z)
        { h = MatMul(x, w)  y = Softmax(h)  z = LogSoftmax(h) }"""
    converted, _ = to_fp16(parse(text, {"w": MLP_WEIGHTS["w"]}))
    written = [name for node in converted.graph.node for name in node.output]
    assert len(written) == len(set(written))
    onnx.checker.check_model(converted, full_check=True)


def test_weights_that_torch_lists_among_the_values_stay_as_their_node_is() -> None:
    model = parse(MLP, MLP_WEIGHTS)
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    converted, _ = to_fp16(model)
    assert input_types(converted, "LayerNormalization") == [FLOAT, FLOAT, FLOAT]
    assert not any(name.startswith("gain_") for node in converted.graph.node for name in node.output)


def test_a_decomposed_layer_norm_stays_in_fp32_as_a_whole() -> None:
    text = """g (float[N,8] x) => (float[N,8] y) <int64[1] last = {-1}, float epsilon = {0.00001}> {
        mean = ReduceMean(x, last)  d = Sub(x, mean)  square = Mul(d, d)  v = ReduceMean(square, last)
        safe = Add(v, epsilon)  root = Sqrt(safe)  y = Div(d, root) }"""
    x = np.linspace(-3000, 3000, 16, dtype=np.float32).reshape(2, 8)  # its squares are far above 65504
    original = answer(parse(text), x=x)
    converted, kept = to_fp16(parse(text))
    assert {"Sub_1", "Mul_2", "Add_4"} <= set(kept)
    np.testing.assert_allclose(answer(emulate_fp16(converted), x=x), original, rtol=2e-3, atol=2e-3)


def test_what_a_logarithm_is_computed_from_stays_in_fp32() -> None:
    text = """g (float[N,8] x) => (float[N,4] y) <float floor = {0.000001}> {
        power = Mul(x, x)  mel = MatMul(power, w)  safe = Add(mel, floor)  log = Log(safe)  y = MatMul(log, u) }"""
    weights = {"w": np.full((8, 4), 0.5, np.float32), "u": np.eye(4, dtype=np.float32)}
    converted, kept = to_fp16(parse(text, weights))
    assert set(kept) == {"Mul_0", "MatMul_1", "Add_2", "Log_3"}
    quiet = np.full((1, 8), 1e-4, np.float32)  # its power, 1e-8, vanishes in FP16
    original = answer(parse(text, weights), x=quiet)
    np.testing.assert_allclose(answer(emulate_fp16(converted), x=quiet), original, rtol=1e-3)


def test_keep_fp32_takes_globs_of_types_and_names() -> None:
    _, kept = to_fp16(parse(MLP, MLP_WEIGHTS), ["Mat*"])
    assert "MatMul_0" in kept
    with pytest.raises(EngineError, match="keep_fp32: 'Conv\\*' matches no operator type") as caught:
        to_fp16(parse(MLP, MLP_WEIGHTS), ["Conv*"], component="encoder")
    assert "LayerNormalization, MatMul, Softmax" in str(caught.value.hint)


def test_scales_that_fp16_cannot_hold_keep_their_node_in_fp32() -> None:
    text = """g (float[N,4] x) => (float[N,2] y) <float s = {0.05}, int8 z = {0}> {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
        dw = DequantizeLinear <axis = 1> (w, ws, wz)  y = MatMul(d, dw) }"""
    weights = {
        "w": np.ones((4, 2), np.int8),
        "ws": np.array([0.01, 1e-7], np.float32),
        "wz": np.zeros(2, np.int8),
    }
    _, kept = to_fp16(parse(text, weights))
    assert kept == ("DequantizeLinear_2",)
    _, kept = to_fp16(parse(text, weights, opset=18))  # FP16 scales came with opset 19
    assert set(kept) == {"QuantizeLinear_0", "DequantizeLinear_1", "DequantizeLinear_2"}


def test_a_graph_out_of_order_is_converted_all_the_same() -> None:
    model = parse(MLP, MLP_WEIGHTS)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    converted, _ = to_fp16(model)
    onnx.checker.check_model(converted, full_check=True)
    assert input_types(converted, "MatMul") == [FLOAT16, FLOAT16]


def test_control_flow_is_refused() -> None:
    text = """g (float[N,2] x, bool c) => (float[N,2] y) {
        y = If (c) <then_branch = t () => (float[N,2] a) { a = Identity(x) },
                    else_branch = e () => (float[N,2] b) { b = Neg(x) }> }"""
    with pytest.raises(EngineError, match="precision: fp16 cannot be written into a graph with If"):
        to_fp16(parse(text))


def test_the_emulation_overflows_where_fp16_does_and_onnx_runtime_alone_does_not() -> None:
    text = """g (float[N,2] x) => (float[N,2] y) <float k = {300.0}> {
        a = Mul(x, k)  b = Mul(a, k)  y = Div(b, k) }"""
    x = np.array([[7.125, 0.5]], np.float32)
    converted, _ = to_fp16(parse(text))
    masked = answer(converted, x=x)
    emulated = answer(emulate_fp16(converted), x=x)
    assert np.isfinite(masked).all()
    assert np.isinf(emulated[0, 0])
    assert emulated[0, 1] == 150.0


def test_the_emulation_rounds_every_result_to_fp16() -> None:
    text = "g (float[N,2] x) => (float[N,2] y) <float k = {1.0009765625}> { y = Mul(x, k) }"
    x = np.array([[1.0009765625, 0.1]], np.float32)
    converted, _ = to_fp16(parse(text))
    expected = (x.astype(np.float16) * np.float16(1.0009765625)).astype(np.float32)
    np.testing.assert_array_equal(answer(emulate_fp16(converted), x=x), expected)


def test_the_emulation_keeps_fp16_inputs_and_outputs() -> None:
    text = """g (float16[N,2] x) => (float16[N,2] y, float16[N,2] z) { y = Add(x, x)  z = Mul(y, y) }"""
    emulated = emulate_fp16(onnx.shape_inference.infer_shapes(parse(text)))
    runner = SessionRunner(open_session(emulated.SerializeToString(), {}))
    answers = runner.infer({"x": np.array([[1.5, 200.0]], np.float16)})
    assert answers["y"].tolist() == [[3.0, 400.0]]
    assert answers["z"].tolist() == [[9.0, np.inf]]
