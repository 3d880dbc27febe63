"""Static quantization: the numbers, the encodings, the bounds, and what is refused."""

import contextlib
import gc
import io
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from float_graphs import GRAPHS, MLP, VIT, answers, built, context_of, quantized, samples, sqnr_db
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from pydantic import ValidationError

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.contracts import Array, Encoding
from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize import held_out, ranges, static
from mmdeploy.quantize.found import Found

CALIBRATORS = ("minmax", "entropy", "percentile", "mse")


@pytest.fixture(params=GRAPHS)
def graph(request, tmp_path):
    text, shape = GRAPHS[request.param]
    return built(text, tmp_path / "float.onnx"), samples(shape)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("encoding", Encoding)
def test_quantized_graph_answers_like_the_float_graph(graph, tmp_path, calibrator, encoding):
    artifact, x = graph
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=encoding, calibrator=calibrator)
    onnx.checker.check_model(str(result.path), full_check=True)  # the quantizer leaves its nodes out of order
    fresh = samples(x.shape[1:], seed=1)
    assert sqnr_db(answers(artifact.path, fresh), answers(result.path, fresh)) > 22
    assert result.metadata["cosine"]["y"] > 0.995
    assert result.metadata["optimizer_cosine"] > 0.999


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_int8_and_uint8_around_128_are_the_same_numbers(graph, tmp_path, calibrator):
    artifact, x = graph
    int8, uint8 = (
        quantized(artifact, tmp_path / encoding, {"x": x}, encoding=encoding, calibrator=calibrator)
        for encoding in (Encoding.INT8_SYMMETRIC, Encoding.UINT8_SYMMETRIC)
    )
    assert int8.metadata["ranges"] == uint8.metadata["ranges"]
    for (scale_a, zero_a), (scale_b, zero_b) in zip(
        activation_parameters(int8.path), activation_parameters(uint8.path), strict=True
    ):
        assert scale_a == scale_b
        assert (zero_a.dtype, int(zero_a)) == (np.int8, 0)
        assert (zero_b.dtype, int(zero_b)) == (np.uint8, 128)
    # What remains is the rounding of biases to INT32, at 1/127 of a weight's scale.
    assert sqnr_db(answers(int8.path, x), answers(uint8.path, x)) > 55


def test_dequantized_values_are_bit_equal_between_int8_and_uint8(tmp_path):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    values = []
    for encoding in (Encoding.INT8_SYMMETRIC, Encoding.UINT8_SYMMETRIC):
        model = onnx.load(quantized(artifact, tmp_path / encoding, {"x": x}, encoding=encoding).path)
        first = next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and "z" in node.input[0])
        model.graph.output.append(onnx.helper.make_tensor_value_info(first.output[0], 1, None))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options)
        values.append(session.run([first.output[0]], {"x": 3 * x})[0])  # beyond the range: both must saturate
    np.testing.assert_array_equal(*values)


def activation_parameters(path: Path) -> list[tuple[float, Array]]:
    model = onnx.load(path)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    return [
        (float(weights[node.input[1]]), weights[node.input[2]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    ]


def activations(path: Path, x: Array, name: str) -> Array:
    model = onnx.load(path)
    if name == "x":
        return x
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    return ort.InferenceSession(model.SerializeToString()).run([name], {"x": x})[0]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_minmax_ranges_are_those_of_numpy(graph, tmp_path, batch):
    artifact, x = graph
    result = quantized(artifact, tmp_path / "q", {"x": x}, calibrator="minmax", batch=batch)
    assert result.metadata["ranges"]
    for name, (low, high) in result.metadata["ranges"].items():
        values = activations(artifact.path, x, name)
        np.testing.assert_allclose([low, high], [values.min(), values.max()], rtol=1e-5)


def test_percentile_ranges_are_those_of_numpy(graph, tmp_path):
    artifact, x = graph
    result = quantized(artifact, tmp_path / "q", {"x": x}, calibrator="percentile", percentile=98)
    for name, (low, high) in result.metadata["ranges"].items():
        values = activations(artifact.path, x, name)
        bin_width = 2 * np.abs(values).max() / 2048
        np.testing.assert_allclose([low, high], np.percentile(values, [1, 99]), atol=2.5 * bin_width)


class OneBatch(CalibrationDataReader):
    """All samples at once: then ONNX Runtime's histograms have the limits of ours."""

    def __init__(self, feed: dict[str, Array]) -> None:
        self._left = [feed]

    def get_next(self) -> dict[str, Array] | None:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize(
    ("calibrator", "method", "options"),
    [
        ("minmax", CalibrationMethod.MinMax, {}),
        ("percentile", CalibrationMethod.Percentile, {"num_bins": 2048, "percentile": 99.5, "symmetric": False}),
        ("entropy", CalibrationMethod.Entropy, {"num_bins": 2048, "num_quantized_bins": 128}),
    ],
)
def test_ranges_are_those_of_onnxruntimes_own_calibrator(graph, tmp_path, monkeypatch, calibrator, method, options):
    artifact, x = graph
    x = x[:16]
    monkeypatch.setattr(ranges, "_HEADROOM", 0.0)
    monkeypatch.chdir(tmp_path)  # it writes a copy of the graph
    theirs = create_calibrator(
        str(artifact.path), ["MatMul", "Gemm", "Conv"], calibrate_method=method, extra_options=options
    )
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.collect_data(OneBatch({"x": x}))
        expected = {name: data.range_value for name, data in theirs.compute_data().items()}
    ours = quantized(artifact, tmp_path / "q", {"x": x}, calibrator=calibrator, percentile=99.5).metadata["ranges"]
    for name, limits in ours.items():
        np.testing.assert_allclose(limits, [np.asarray(end).item() for end in expected[name]], rtol=1e-5, atol=1e-6)


def test_a_percentile_of_few_values_is_taken_to_lie_beyond_them(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,), count=32)
    found = {
        calibrator: quantized(artifact, tmp_path / calibrator, {"x": x}, calibrator=calibrator).metadata["ranges"]
        for calibrator in ("minmax", "percentile")
    }
    for name, limits in found["minmax"].items():
        wider = 1 + ranges.headroom(activations(artifact.path, x, name).size, 99.99)
        assert 1.3 < wider < 1.4
        bin_width = 2 * np.abs(limits).max() / 2048
        np.testing.assert_allclose(found["percentile"][name], np.multiply(limits, wider), atol=2 * bin_width)


@pytest.mark.parametrize(
    ("values", "percentile", "share"),
    [(0, 99.99, 0.4), (20_000, 99.99, 0.2), (40_000, 99.99, 0.0), (10**9, 99.99, 0.0), (40, 90, 0.0), (5, 100, 0.0)],
)
def test_the_more_values_a_percentile_is_of_the_less_room_is_left(values, percentile, share):
    assert ranges.headroom(values, percentile) == pytest.approx(share)


def test_few_samples_serve_others_better_with_room_than_with_what_they_span(tmp_path):
    """The samples have rare large values, so 24 of them do not show what others have."""
    artifact = built(MLP, tmp_path / "float.onnx")
    x = np.random.default_rng(3).standard_t(5, (1024, 16)).astype(np.float32)
    worst = {}
    for calibrator in ("minmax", "percentile"):
        result = quantized(artifact, tmp_path / calibrator, {"x": x[:24]}, calibrator=calibrator)
        wanted, given = answers(artifact.path, x[24:]), answers(result.path, x[24:])
        norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
        worst[calibrator] = ((wanted * given).sum(axis=1) / norms).min()
    assert worst["percentile"] > worst["minmax"]


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_ranges_depend_neither_on_the_encoding_nor_on_the_batches(tmp_path, calibrator):
    """But for mse: its ranges depend on whether codes are spread around zero."""
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    other = Encoding.UINT8_SYMMETRIC if calibrator == "mse" else Encoding.UINT8_ASYMMETRIC
    found = [
        quantized(
            artifact, tmp_path / f"{encoding}-{batch}", {"x": x},
            encoding=encoding, calibrator=calibrator, batch=batch, batch_size=batch,
        ).metadata["ranges"]
        for encoding, batch in ((Encoding.INT8_SYMMETRIC, 64), (other, 5))
    ]  # fmt: skip
    for name, limits in found[0].items():
        np.testing.assert_allclose(limits, found[1][name], rtol=1e-5)


@pytest.mark.parametrize("calibrator", ["minmax", "percentile"])
def test_what_the_float_graph_answers_comes_from_the_run_over_its_activations(tmp_path, monkeypatch, calibrator):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16), 12)
    asked = []
    ask = held_out.answers
    monkeypatch.setattr(held_out, "answers", lambda path, *rest, **more: asked.append(path) or ask(path, *rest, **more))
    made = quantized(artifact, tmp_path / "q", {"x": x}, batch=4, calibrator=calibrator, equalize=None, batch_size=4)
    assert artifact.path not in asked
    kept = Found.load(made.path.parent).wanted
    np.testing.assert_allclose(np.concatenate([one["y"] for one in kept]), answers(artifact.path, x), atol=1e-5)


@pytest.mark.parametrize("strength", [None, 0.5])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_what_was_found_is_written_in_another_encoding(tmp_path, monkeypatch, calibrator, strength):
    artifact, feed = built(VIT, tmp_path / "float.onnx"), {"x": samples((9, 16))}
    options = {"calibrator": calibrator, "equalize": strength}
    first = quantized(artifact, tmp_path / "first", feed, **options)
    anew = quantized(artifact, tmp_path / "anew", feed, encoding=Encoding.INT8_SYMMETRIC, **options)
    monkeypatch.setattr(ranges, "find", None)
    monkeypatch.setattr(ranges, "channel_maxima", None)
    context = context_of(tmp_path / "written", feed, encoding=Encoding.INT8_SYMMETRIC)
    written = static.write(artifact, first, static.Options(**options), context)
    advice = {"worst_nodes": first.metadata["worst_nodes"]}  # nodes are looked at one by one once
    assert (written.sha256, dict(written.metadata)) == (anew.sha256, dict(anew.metadata) | advice)


def test_what_was_tried_is_tried_once_for_all_encodings(tmp_path):
    artifact, feed = built(VIT, tmp_path / "float.onnx"), {"x": samples((9, 16))}
    options = static.Options()
    first = static.run(artifact, options, context_of(tmp_path / "first", feed))
    assert first.metadata["trials"]
    written = static.write(
        artifact, first, options, context_of(tmp_path / "written", feed, encoding=Encoding.INT8_SYMMETRIC)
    )
    for name in ("trials", "plain", "calibrator", "equalized", "samples"):
        assert written.metadata[name] == first.metadata[name]
    assert written.metadata["encoding"] == "int8_symmetric"


def test_entropy_and_percentile_leave_out_a_stray_value(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,), count=512)
    x[17, 3] = 1000.0
    widths = {}
    for calibrator in CALIBRATORS:
        result = quantized(
            artifact, tmp_path / calibrator, {"x": x}, calibrator=calibrator, samples=512, percentile=99.9
        )
        low, high = result.metadata["ranges"]["x"]
        widths[calibrator] = high - low
    assert widths["minmax"] > 1000
    assert widths["percentile"] < 20 and widths["entropy"] < 200
    assert widths["mse"] > 1000  # cutting it off would cost more than all the rest gains


def test_weights_are_int8_per_channel_and_the_file_shrinks(tmp_path):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    model = onnx.load(quantized(artifact, tmp_path / "q", {"x": x}).path)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    stored = [array for array in weights.values() if array.dtype == np.int8 and array.ndim == 2]
    assert len(stored) == 6
    assert not any(array.dtype == np.float32 and array.ndim == 2 for array in weights.values())
    scales = [
        weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    ]
    assert sorted(scale.size for scale in scales) == [16, 16, 16, 16, 16, 32]
    single = onnx.load(quantized(artifact, tmp_path / "t", {"x": x}, per_channel=False).path)
    constants = {weight.name: weight for weight in single.graph.initializer}
    assert all(
        not constants[node.input[1]].dims
        for node in single.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    )


def test_size_and_counts_are_reported(tmp_path):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    result = quantized(artifact, tmp_path / "q", {"x": x}, samples=40, batch_size=16)
    metadata = result.metadata
    assert metadata["samples"] == 40
    assert metadata["bytes_after"] == result.path.stat().st_size
    assert metadata["bytes_before"] == artifact.path.stat().st_size
    assert metadata["quantized_nodes"] == [
        "attention_query/MatMul", "attention_key/MatMul", "attention_value/MatMul", "attention_output/MatMul",
        "mlp_0/MatMul", "mlp_2/MatMul",
    ]  # fmt: skip
    assert metadata["excluded_nodes"] == {
        "attention/MatMul": "a product of two activations",
        "attention/MatMul_1": "a product of two activations",
    }


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize(
    "product", ["float[24, 9] w> { [p] y = MatMul (w, x)", "float[2, 16, 24] w> { [p] y = MatMul (x, w)"]
)
def test_weights_that_are_not_the_right_hand_matrix_get_one_scale(tmp_path, product, encoding):
    """ONNX Runtime loads such a graph with a scale a channel, and fails when it runs it."""
    shape = (2, 9, 16)
    out = "24, 16" if "(w, x)" in product else "9, 24"
    head = f'<ir_version: 10, opset_import: ["" : 20]> g (float[n, 2, 9, 16] x) => (float[n, 2, {out}] y) <'
    artifact, x = built(head + product + " }", tmp_path / "float.onnx"), samples(shape)
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=encoding)
    assert result.metadata["quantized_nodes"] == ["p"]
    assert sqnr_db(answers(artifact.path, x), answers(result.path, x)) > 22


def test_symmetric_attention_can_be_quantized(tmp_path):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    result = quantized(artifact, tmp_path / "q", {"x": x}, encoding=Encoding.INT8_SYMMETRIC, quantize_attention=True)
    assert {"attention/MatMul", "attention/MatMul_1"} <= set(result.metadata["quantized_nodes"])
    assert result.metadata["cosine"]["y"] > 0.995


def test_exclusion_by_glob_and_by_operator(tmp_path):
    artifact, x = built(VIT, tmp_path / "float.onnx"), samples((9, 16))
    result = quantized(artifact, tmp_path / "q", {"x": x}, exclude=("attention*", "mlp_2/*"))
    assert result.metadata["quantized_nodes"] == ["mlp_0/MatMul"]
    assert result.metadata["excluded_nodes"]["mlp_2/MatMul"] == "excluded by 'mlp_2/*'"
    counts = Counter(node.op_type for node in onnx.load(result.path).graph.node)
    assert counts["QuantizeLinear"] == 1


def refused(tmp_path: Path, text: str, feed, **options) -> QuantizeError:
    with pytest.raises(QuantizeError) as error:
        quantized(built(text, tmp_path / "float.onnx"), tmp_path / "q", feed, **options)
    return error.value


def test_glob_that_matches_nothing_offers_the_nearest(tmp_path):
    error = refused(tmp_path, VIT, {"x": samples((9, 16))}, exclude=("mlp_1/MatMul",))
    assert str(error) == "exclude: 'mlp_1/MatMul' matches no node"
    assert error.hint is not None and "mlp_0/MatMul" in error.hint


def test_unknown_operator_offers_the_nearest(tmp_path):
    error = refused(tmp_path, VIT, {"x": samples((9, 16))}, op_types=("Matmul",))
    assert str(error) == "operator 'Matmul' cannot be quantized"
    assert error.hint is not None and "'MatMul'" in error.hint


def test_nothing_left_to_quantize(tmp_path):
    error = refused(tmp_path, MLP, {"x": samples((16,))}, exclude=("first", "second"))
    assert "all 2 nodes are out (excluded by 'first'; excluded by 'second')" in str(error)
    error = refused(tmp_path, MLP, {"x": samples((16,))}, op_types=("Conv",))
    assert "the graph has no Conv; it has Gemm, Tanh" in str(error)


def test_without_calibration_data(tmp_path):
    assert "needs calibration data" in str(refused(tmp_path, MLP, None))
    assert "the calibration set is empty" in str(refused(tmp_path, MLP, lambda: iter(())))


def test_activation_that_overflows_is_named(tmp_path):
    overflowing = MLP.replace("Tanh (h)", "Exp (h)")
    error = refused(tmp_path, overflowing, {"x": 1000 * samples((16,))})
    assert "the activation 'a' in calibration batch 0 holds NaN or Inf" in str(error)


def test_quantized_graph_is_not_quantized_again(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,))
    once = quantized(artifact, tmp_path / "once", {"x": x})
    with pytest.raises(QuantizeError, match="is quantized already"):
        quantized(once, tmp_path / "twice", {"x": x})


def test_file_that_is_no_graph(tmp_path):
    path = tmp_path / "float.onnx"
    path.write_bytes(b"\xff\xff not a graph")
    with pytest.raises(QuantizeError, match=r"float.onnx cannot be read as ONNX"):
        quantized(Artifact("onnx", path, "", (), (), "test"), tmp_path / "q", {"x": samples((16,))})


def test_options_are_validated():
    for bad in ({"calibrator": "kl"}, {"percentile": 101}, {"samples": 0}, {"op_types": ()}, {"sample": 3}):
        with pytest.raises(ValidationError):
            static.Options(**bad)


def test_unnamed_nodes_get_names(tmp_path):
    unnamed = MLP.replace("[first] ", "").replace("[second] ", "")
    result = quantized(built(unnamed, tmp_path / "float.onnx"), tmp_path / "q", {"x": samples((16,))})
    assert result.metadata["quantized_nodes"] == ["Gemm_0", "Gemm_2"]


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_no_batch_is_kept_beyond_what_there_is_room_for(tmp_path, calibrator, monkeypatch):
    """Whatever the calibrator, a batch is free before the next but one is read, the first two perhaps left aside."""
    monkeypatch.setattr(ranges, "_KEPT_BYTES", 2 * 4 * 4 * (16 + 32) + 100)
    artifact = built(MLP, tmp_path / "float.onnx")
    alive: list[weakref.ref] = []
    peak = 0

    def calibration() -> Iterator[dict[str, Array]]:
        nonlocal peak
        for seed in range(30):
            x = samples((16,), count=4, seed=seed)
            alive.append(weakref.ref(x))
            gc.collect()
            peak = max(peak, sum(reference() is not None for reference in alive))
            yield {"x": x}
            del x

    # The comparison afterwards holds a few batches knowingly; it reads the same generator.
    gc.freeze()  # so that a collection looks at what comes from now on, and not at all that was imported
    try:
        quantized(artifact, tmp_path / "q", calibration, calibrator=calibrator, samples=120, batch_size=4)
    finally:
        gc.unfreeze()
    assert peak <= 7


@pytest.mark.parametrize("calibrator", [one for one in CALIBRATORS if one != "minmax"])
def test_ranges_do_not_depend_on_what_is_kept_between_the_runs(tmp_path, calibrator, monkeypatch):
    artifact, feed = built(MLP, tmp_path / "float.onnx"), {"x": samples((16,))}
    found = []
    for number, room in enumerate((0, 2 * 8 * 4 * (16 + 32) + 100, 2**20)):  # nothing, two batches, all of them
        monkeypatch.setattr(ranges, "_KEPT_BYTES", room)
        made = quantized(artifact, tmp_path / str(number), feed, calibrator=calibrator, batch_size=8)
        found.append((made.metadata["ranges"], made.sha256))
    assert found[0] == found[1] == found[2]


def test_tensor_that_is_always_zero_does_no_harm(tmp_path):
    dead = MLP.replace("Tanh (h)", "Sub (h, h)")
    artifact, x = built(dead, tmp_path / "float.onnx"), samples((16,))
    for calibrator in CALIBRATORS:
        result = quantized(artifact, tmp_path / calibrator, {"x": x}, calibrator=calibrator)
        assert result.metadata["ranges"]["a"] == [0.0, 0.0]
        # The scale is 1 for want of a better one, and the INT32 bias is rounded to it.
        np.testing.assert_allclose(answers(result.path, x), answers(artifact.path, x), atol=5e-3)


def test_specs_are_passed_on(tmp_path):
    artifact, x = built(MLP, tmp_path / "float.onnx"), samples((16,))
    spec = TensorSpec("x", "FP32", (16,))
    given = Artifact("onnx", artifact.path, artifact.sha256, (spec,), (), "test")
    assert quantized(given, tmp_path / "q", {"x": x}).inputs == (spec,)
