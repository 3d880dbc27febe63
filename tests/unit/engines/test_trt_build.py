"""Real builds with tensorrt_rtx, on graphs small enough to build in a fraction of a second."""

from typing import Any

import numpy as np
import onnx
import pytest

from mmdeploy.core.errors import EngineError
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.engines import tensorrt_rtx as rtx

MATMUL = "g (float[N,4] x) => (float[N,2] y) { y = MatMul(x, w) }"
WEIGHTS = {"w": np.arange(8, dtype=np.float32).reshape(4, 2) / 8}
QDQ = """g (float[N,4] x) => (float[N,2] y) <float s = {0.05}, TYPE z = {ZERO}> {
    q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
    dw = DequantizeLinear <axis = 1> (w, ws, wz)  y = MatMul(d, dw) }"""
QDQ_WEIGHTS = {
    "w": np.arange(8, dtype=np.int8).reshape(4, 2),
    "ws": np.array([0.01, 0.02], np.float32),
    "wz": np.zeros(2, np.int8),
}


def qdq(dtype: str, zero: int) -> str:
    return QDQ.replace("TYPE", dtype).replace("ZERO", str(zero))


def answer(path: Any, feed: dict[str, np.ndarray]) -> np.ndarray:
    return SessionRunner(open_session(path, {})).infer(feed)["y"]


def test_the_graph_beside_the_plan_answers_as_the_source(make_onnx, make_context) -> None:
    source = make_onnx(MATMUL, weights=WEIGHTS)
    context = make_context(source)
    built = rtx.run(source, rtx.Options(), context)
    assert built.format == "tensorrt_rtx_plan"
    assert built.path.name == "model.plan"
    assert built.metadata["engine_bytes"] == built.path.stat().st_size > 0
    assert built.metadata["optimization_profile"]["x"] == {"min": [1, 4], "opt": [4, 4], "max": [8, 4]}
    assert built.metadata["compute_capabilities"] == ["SM86", "SM89", "SM120"]
    feed = context.examples(3)
    beside = built.path.with_name(built.metadata["graph"])
    np.testing.assert_array_equal(answer(beside, feed), answer(source.path, feed))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_int8_builds_with_either_precision_around_it(make_onnx, make_context, precision: str) -> None:
    source = make_onnx(qdq("int8", 0), weights=QDQ_WEIGHTS)
    context = make_context(source)
    built = rtx.run(source, rtx.Options(precision=precision), context)
    feed = context.examples(3)
    beside = built.path.with_name(built.metadata["graph"])
    np.testing.assert_allclose(answer(beside, feed), answer(source.path, feed), rtol=5e-2, atol=5e-3)


def test_fp16_is_in_the_parsed_graph_and_only_emulated_in_the_other(make_onnx, make_context) -> None:
    source = make_onnx(MATMUL, weights=WEIGHTS)
    built = rtx.run(source, rtx.Options(precision="fp16"), make_context(source))
    parsed = onnx.load(built.path.with_name(built.metadata["parsed_graph"]))
    emulated = onnx.load(built.path.with_name(built.metadata["graph"]))
    assert {tensor.data_type for tensor in parsed.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert {tensor.data_type for tensor in emulated.graph.initializer} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "body",
    [
        "f = Cast <to = 1> (x)  y = Flatten(f)",
        "r = Flatten(x)  y = Cast <to = 1> (r)",
        "f = Cast <to = 1> (x)  i = Flatten(x)  j = Cast <to = 1> (i)  k = Flatten(f)  y = Add(j, k)",
    ],
)
def test_uint8_inputs_stay_uint8(make_onnx, make_context, body: str, precision: str) -> None:
    source = make_onnx(f"g (uint8[N,3,2] x) => (float[N,6] y) {{ {body} }}")
    context = make_context(source)
    built = rtx.run(source, rtx.Options(precision=precision), context)
    assert [spec.dtype for spec in built.inputs] == ["UINT8"]
    feed = {"x": np.arange(250, 256, dtype=np.uint8).reshape(1, 3, 2)}
    beside = built.path.with_name(built.metadata["graph"])
    np.testing.assert_array_equal(answer(beside, feed), answer(source.path, feed))


def test_external_weights_are_parsed_too_and_kept_inside_where_they_fit(make_onnx, make_context) -> None:
    source = make_onnx(MATMUL, weights=WEIGHTS)
    model = onnx.load(source.path)
    source.path.unlink()
    onnx.save(model, source.path, save_as_external_data=True, location="w.bin", size_threshold=0)
    built = rtx.run(source, rtx.Options(), make_context(source))
    names = {file.name for file in built.path.parent.iterdir()}
    assert names == {"model.plan", "graph.onnx"}
    (weight,) = onnx.load(built.path.with_name("graph.onnx")).graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), WEIGHTS["w"])


@pytest.mark.parametrize(
    ("text", "weights", "message", "todo"),
    [
        (
            qdq("uint8", 128),
            QDQ_WEIGHTS,
            r"QuantizeLinear \(node .*, writing q\): its zero point is not 0",
            "zero point 0",
        ),
        (qdq("int8", 3), QDQ_WEIGHTS, "its zero point is not 0", "symmetric INT8, zero point 0"),
        (
            "g (float[N,4] x) => (int32[N,2] y) { a, s, z = DynamicQuantizeLinear(x)  y = MatMulInteger(a, w, z) }",
            {"w": QDQ_WEIGHTS["w"]},
            r"\(2 operators\)\n.*DynamicQuantizeLinear.*: this is dynamic(.|\n)*MatMulInteger",
            "quantize.method: static",
        ),
        (
            "g (float[N,4,4] x) => (float[N] y) { y = Det(x) }",
            {},
            r"operator Det \(node .*, writing y\): TensorRT does not support this operator",
            "engine.method: onnxruntime",
        ),
        (
            "g (float[N,4] x) => (float[N,4] y) { y = my.domain.Frobnicate(x) }",
            {},
            "Frobnicate .*TensorRT does not know this operator",
            "standard operators",
        ),
        (
            "g (uint8[N,4] x) => (uint8[N,4] y) { y = Add(x, x) }",
            {},
            "differ in type|works on UINT8|INT32",
            "",
        ),
    ],
)
def test_refusals_name_component_node_and_way_out(
    make_onnx, make_context, text: str, weights: dict[str, Any], message: str, todo: str
) -> None:
    source = make_onnx(text, weights=weights)
    with pytest.raises(EngineError, match=message) as caught:
        rtx.run(source, rtx.Options(), make_context(source))
    assert caught.value.message.startswith("encoder: ")
    assert todo in str(caught.value.hint)
    assert "cudaError" not in caught.value.message


def test_types_that_tensorrt_would_narrow_are_refused(make_onnx, make_context) -> None:
    source = make_onnx("g (double[N,4] x) => (double[N,4] y) { y = Add(x, x) }")
    with pytest.raises(EngineError, match="no FP64 tensors, and 'x' is one"):
        rtx.run(source, rtx.Options(), make_context(source))


def test_a_fixed_batch_cannot_serve_a_larger_one(make_onnx, make_context) -> None:
    source = make_onnx("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    with pytest.raises(EngineError, match=r"axis 0 of 'x' is fixed at 1 .* asks up to 8") as caught:
        rtx.run(source, rtx.Options(), make_context(source))
    assert "dynamic batch" in str(caught.value.hint)
    rtx.run(source, rtx.Options(), make_context(source, max_batch_size=1))


def test_progress_is_told_and_may_stop_the_build(make_onnx, make_context) -> None:
    source = make_onnx(MATMUL, weights=WEIGHTS)
    told: list[str] = []
    rtx.run(source, rtx.Options(), make_context(source, progress=lambda done, total, what: told.append(what)))
    assert any(what.startswith("TensorRT: ") for what in told)

    def interrupt(done: int, total: int | None, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rtx.run(source, rtx.Options(), make_context(source, progress=interrupt))


def test_only_the_engine_that_was_built_is_loaded(make_onnx, make_context) -> None:
    source = make_onnx(MATMUL, weights=WEIGHTS)
    built = rtx.run(source, rtx.Options(), make_context(source))
    with pytest.raises(EngineError, match=r"is a onnx; tensorrt_rtx loads tensorrt_rtx_plan only"):
        rtx.load(source, rtx.Options())
    with built.path.open("r+b") as plan:
        plan.write(b"\0\0\0\0")
    with pytest.raises(EngineError, match="SHA-256 differs"):
        rtx.load(built, rtx.Options())
