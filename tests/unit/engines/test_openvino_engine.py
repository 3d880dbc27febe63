from xml.etree import ElementTree

import numpy as np
import pytest
from pydantic import ValidationError

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.contracts import INSTANCE_KIND, Encoding
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError, InferenceError
from mmdeploy.core.target import this_hardware, usable_cores
from mmdeploy.engines import openvino as engine

ov = pytest.importorskip("openvino", reason="needs openvino (the extra cpu brings it)")

GRAPH = "g (float[N,64] x) => (float[N,64] y) { h = MatMul(x, w)\n r = Relu(h)\n y = MatMul(r, w) }"
WEIGHTS = {"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) / 8}
#: What Triton's native backend sets on its core (its src/openvino.cc), besides threads and streams.
NATIVE = {"HINT_BF16": {"INFERENCE_PRECISION_HINT": "bf16"}}

needs_bf16 = pytest.mark.skipif(
    not {"avx512_bf16", "amx_bf16"} & set(this_hardware().isa), reason="this CPU has no bfloat16"
)


def by_numpy(x):
    return np.maximum(x @ WEIGHTS["w"], 0) @ WEIGHTS["w"]


def as_the_native_backend(built, options):
    """Answer as Triton's native backend does: what config.pbtxt says, OpenVINO's own defaults for the rest."""
    not_its_core_s = ("ENABLE_BATCH_PADDING", INSTANCE_KIND)
    properties = {key: value for key, value in engine.serving(options).items() if key not in not_its_core_s}
    for word, means in NATIVE.items():
        if properties.pop(word, None):
            properties |= means
    core = ov.Core()
    return core.compile_model(core.read_model(built.path), "CPU", properties)


def test_serving_is_written_in_the_words_of_the_native_backend() -> None:
    plain = {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "ENABLE_BATCH_PADDING": "YES", INSTANCE_KIND: "KIND_CPU"}
    assert engine.serving(engine.Options()) == plain
    assert engine.serving(engine.Options(precision="bf16")) == plain | {"HINT_BF16": "YES"}
    assert engine.serving(engine.Options(threads=3))["INFERENCE_NUM_THREADS"] == "3"
    assert engine.serving(engine.Options(threads="cores"))["INFERENCE_NUM_THREADS"] == str(usable_cores())


@pytest.mark.parametrize("chosen", list(Encoding))
def test_the_encoding_is_the_one_that_was_chosen(chosen: Encoding) -> None:
    assert engine.encoding(engine.Options(encoding=chosen)) is chosen


@pytest.mark.parametrize(
    "bad", [{"threads": 0}, {"precision": "fp16"}, {"encoding": "int4"}, {"provider": "cpu"}, {"fixed_batches": [0]}]
)
def test_options_refuse(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        engine.Options.model_validate(bad)


def test_fp32_answers_as_numpy_does_and_so_it_does_natively(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    context, options = make_context(source), engine.Options()
    built = engine.run(source, options, context)
    assert built.metadata["computed_in"] == "f32"
    feed = context.examples(3)
    answer = engine.load(built, options).infer(feed)["y"]
    np.testing.assert_allclose(answer, by_numpy(feed["x"]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(as_the_native_backend(built, options)(feed)["y"], answer)


@needs_bf16
def test_without_the_marks_the_native_backend_would_compute_in_bfloat16(make_onnx, make_context) -> None:
    """If this fails OpenVINO has changed its default, and the marks may go."""
    source = make_onnx(GRAPH, weights=WEIGHTS)
    context, options = make_context(source), engine.Options()
    built = engine.run(source, options, context)
    tree = ElementTree.parse(built.path)
    for marks in tree.iter("rt_info"):
        for mark in marks.findall("attribute[@name='precise']"):
            marks.remove(mark)
    tree.write(built.path)
    feed = context.examples(3)
    answer = as_the_native_backend(built, options)(feed)["y"]
    assert np.abs(answer - by_numpy(feed["x"])).max() > 1e-3


@needs_bf16
def test_bf16_is_computed_in_bfloat16_here_and_natively(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    context, options = make_context(source), engine.Options(precision="bf16")
    built = engine.run(source, options, context)
    assert built.metadata["computed_in"] == "bf16"
    feed = context.examples(3)
    answer, exact = engine.load(built, options).infer(feed)["y"], by_numpy(feed["x"])
    error = np.abs(answer - exact).max() / np.abs(exact).max()
    assert 2**-12 < error < 2**-5  # FP32 errs below 2**-20, bfloat16 keeps 8 bits
    np.testing.assert_array_equal(as_the_native_backend(built, options)(feed)["y"], answer)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize(("dtype", "zero"), [("int8", 0), ("uint8", 128), ("uint8", 101)])
def test_int8_is_what_the_graph_says_in_every_encoding(dtype, zero, precision, make_onnx, make_context) -> None:
    random = np.random.default_rng(2)
    weights, steps = random.integers(-127, 128, (64, 16), np.int8), random.uniform(0.01, 0.02, 16).astype(np.float32)
    source = make_onnx(
        f"""g (float[N,64] x) => (float[N,16] y) <float s = {{0.02}}, {dtype} z = {{{zero}}}> {{
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            f = DequantizeLinear <axis = 1> (w, ws)
            y = MatMul(d, f)
        }}""",
        weights={"w": weights, "ws": steps},
    )
    context, options = make_context(source), engine.Options(precision=precision)
    feed = context.examples(5)
    limits = np.iinfo(dtype)
    levels = np.clip(np.rint(feed["x"] / np.float32(0.02)) + zero, limits.min, limits.max) - zero
    expected = (levels @ weights.astype(np.int64)) * steps * np.float32(0.02)
    answer = engine.load(engine.run(source, options, context), options).infer(feed)["y"]
    # One bfloat16 rounding of the output is allowed, no rounding of what goes into the product.
    tolerance = 2**-8 if precision == "bf16" else 1e-5
    np.testing.assert_allclose(answer, expected, rtol=tolerance, atol=tolerance)


def test_bf16_is_unavailable_without_its_instructions(make_onnx, make_context, monkeypatch) -> None:
    options = engine.Options(precision="bf16")
    source = make_onnx(GRAPH, weights=WEIGHTS)
    built = engine.run(source, options, make_context(source))
    monkeypatch.setattr(engine, "_BF16", frozenset())
    assert "no bfloat16" in str(engine.unavailable(options))
    assert engine.unavailable(engine.Options()) is None
    with pytest.raises(EnvironmentUnfitError, match="no bfloat16"):
        engine.load(built, options)


def test_the_weights_are_served_with_the_model_and_stay_fp32(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    context = make_context(source)
    built = engine.run(source, engine.Options(), context)
    assert [file.name for file in built.files] == ["model.xml", "model.bin"]
    assert (context.workdir / "model.bin").stat().st_size >= WEIGHTS["w"].nbytes


@pytest.mark.parametrize(
    "graph",
    [
        "g (float[N,4] x) => (float[N,4] y) { y = Identity(x) }",
        "g (float[N,4] x) => (float[N,4] y) { a = Relu(x)\n y = Identity(a) }",
        "g (float[N,4] x) => (float[N,4] b, float[N,4] a) { b = Relu(x)\n a = Identity(b) }",
    ],
)
def test_outputs_keep_their_names_where_openvino_makes_one_tensor_of_two(graph, make_onnx, make_context) -> None:
    source = make_onnx(graph)
    context = make_context(source)
    built = engine.run(source, engine.Options(), context)
    feed = {"x": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)}
    answers = engine.load(built, engine.Options()).infer(feed)
    assert list(answers) == [spec.name for spec in source.outputs]
    for answer in answers.values():
        np.testing.assert_array_equal(answer, feed["x"])


def test_masked_attention_whose_zeros_are_one_constant_compiles(make_onnx, make_context) -> None:
    """The plugin cannot fuse it: it says that consumers of a scalar are expected to have the same loops."""
    source = make_onnx(
        """g (float[N,2,L,8] q, float[N,2,8,L] k, float[N,2,L,8] v, bool[N,1,1,L] mask) => (float[N,2,L,8] y) {
        bias = Where(mask, zero, low)\n raw = MatMul(q, k)\n scores = Add(raw, bias)\n p = Softmax(scores)
        mixed = MatMul(p, v)\n number = Cast<to = 7>(mask)\n most = ReduceMax<keepdims = 1>(number, last)
        seen = Cast<to = 9>(most)\n y = Where(seen, mixed, zero) }""",
        weights={"zero": np.float32(0), "low": np.float32(-3e38), "last": np.array([-1])},
    )
    built = engine.run(source, engine.Options(), make_context(source))
    generator = np.random.default_rng(0)
    sides = {"q": (3, 8), "k": (8, 3), "v": (3, 8)}
    feed = {name: generator.normal(size=(2, 2, *axes)).astype(np.float32) for name, axes in sides.items()}
    feed["mask"] = np.array([[True, True, False], [False] * 3])[:, None, None]
    scores = np.exp(feed["q"][0] @ feed["k"][0]) * feed["mask"][0]
    wanted = scores / scores.sum(axis=-1, keepdims=True) @ feed["v"][0]
    answer = engine.load(built, engine.Options()).infer(feed)["y"]
    np.testing.assert_allclose(answer[0], wanted, rtol=1e-4, atol=1e-5)
    assert not answer[1].any()


def test_an_answer_is_not_overwritten_by_the_next(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    context = make_context(source)
    runner = engine.load(engine.run(source, engine.Options(), context), engine.Options())
    first = runner.infer({"x": np.ones((1, 64), np.float32)})["y"]
    kept = first.copy()
    runner.infer({"x": np.zeros((1, 64), np.float32)})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((2, 63), np.float32)}, r"shape is \[63\]"),
        ({"x": np.zeros((2, 64), np.float64)}, "dtype is FP64"),
        ({"x": np.zeros((2, 64), np.float32), "z": np.zeros(2)}, "unknown input 'z'"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused(feed, message, make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    built = engine.run(source, engine.Options(), make_context(source))
    runner = engine.load(built, engine.Options())
    runner.infer({"x": np.ones((2, 64), np.float32)})  # whose tensors OpenVINO would take again
    with pytest.raises(InferenceError, match=message):
        runner.infer(feed)
    runner.close()
    with pytest.raises(InferenceError, match="closed"):
        runner.infer({"x": np.ones((2, 64), np.float32)})


def test_a_graph_that_is_not_what_the_artifact_says_is_refused(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    renamed = Artifact(
        source.format, source.path, source.sha256, (TensorSpec("pixels", "FP32", (64,)),), source.outputs, "test"
    )
    with pytest.raises(EngineError, match=r"encoder: the graph's inputs are x: FP32 \[64\], .* said pixels"):
        engine.run(renamed, engine.Options(), make_context(source))


def test_an_operator_that_openvino_lacks_is_named(make_onnx, make_context) -> None:
    source = make_onnx("g (float[N,4] x) => (float[N,4] y) { y = my.domain.Frobnicate(x) }")
    with pytest.raises(EngineError, match=r"cannot read the graph: .*Frobnicate"):
        engine.run(source, engine.Options(), make_context(source))


def test_a_damaged_file_is_refused(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    built = engine.run(source, engine.Options(), make_context(source))
    built.path.write_text("<net")
    with pytest.raises(EngineError, match=r"cannot load .*model\.xml"):
        engine.load(built, engine.Options())


def test_a_batch_of_a_fixed_size_and_any_other_are_answered_alike(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    context, options = make_context(source), engine.Options(fixed_batches=(2, 1, 2))
    assert engine.serving(options)["FIXED_BATCHES"] == "1,2"
    runner = engine.load(engine.run(source, options, context), options)
    asked = []
    for size, request in runner._fixed.items():
        runner._fixed[size] = Counted(request, size, asked)
    for size in (1, 2, 3, 1):
        feed = context.examples(size)
        np.testing.assert_allclose(runner.infer(feed)["y"], by_numpy(feed["x"]), rtol=1e-5, atol=1e-5)
    assert asked == [1, 2, 1]
    runner.close()
    with pytest.raises(InferenceError, match="closed"):
        runner.infer(context.examples(1))


class Counted:
    """A request that notes for which size it was asked."""

    def __init__(self, request, size, asked) -> None:
        self.request, self.size, self.asked = request, size, asked

    def infer(self, *given, **named):
        self.asked.append(self.size)
        return self.request.infer(*given, **named)


def test_a_fixed_batch_that_is_never_served_is_refused(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    context = make_context(source)
    options = engine.Options(fixed_batches=(1, context.max_batch_size + 1))
    with pytest.raises(EngineError, match=f"fixed_batches has {context.max_batch_size + 1}, and no batch is larger"):
        engine.run(source, options, context)
    assert not [*context.workdir.iterdir()]
