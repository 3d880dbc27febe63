"""Weights rounded by GPTQ: against a plain reading of the paper, on layers and on graphs."""

import numpy as np
import onnx
import pytest
from float_graphs import MLP, answers, built, context_of, quantized, sqnr_db
from onnx import numpy_helper

from mmdeploy.core.contracts import Encoding
from mmdeploy.quantize import fidelity, gptq, selection, static
from mmdeploy.quantize.set_aside import set_aside


def alike(rows, inputs, seed=0):
    """Return inputs that go together: a few directions and a little noise [rows, inputs]."""
    source = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((2, inputs))
    noise = 0.05 * source.standard_normal((rows, inputs))
    return (source.standard_normal((rows, 2)) @ directions + noise).astype(np.float32)


def one_after_the_other(matrix, power, scales):
    """Round as the paper says, with the inverse itself, from which each input is struck in its turn."""
    left = matrix.astype(np.float64).copy()
    inverse = np.linalg.inv(power + 0.01 * np.diag(power).mean() * np.eye(len(power)))
    codes = np.zeros(left.shape, int)
    for row in np.argsort(-np.diag(power), kind="stable"):
        codes[row] = np.clip(np.rint(left[row] / scales), -127, 127)
        error = (left[row] - codes[row] * scales) / inverse[row, row]
        left -= np.outer(inverse[:, row], error)
        inverse -= np.outer(inverse[:, row], inverse[row]) / inverse[row, row]
        inverse[row, row] = 1  # done with
    return codes


@pytest.mark.parametrize("inputs", [1, 7, 64, 150])
def test_the_codes_are_those_of_the_paper(inputs):
    matrix = np.random.default_rng(inputs).standard_normal((inputs, 12)).astype(np.float32)
    x = alike(200, inputs)
    codes, scales = gptq._rounded(matrix, 1, x.T @ x, per_channel=True)
    wanted = one_after_the_other(matrix, (x.T @ x).astype(np.float64), scales)
    assert codes.dtype == np.int8
    assert (codes != wanted).mean() < 0.005, "but for ties of FP32"
    turned, same_scales = gptq._rounded(np.ascontiguousarray(matrix.T), 0, x.T @ x, per_channel=True)
    assert (codes == turned.T).all()
    assert (same_scales.ravel() == scales.ravel()).all()


def test_inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_the_nearest():
    matrix = np.random.default_rng(1).standard_normal((32, 8)).astype(np.float32)
    for power in (np.diag(np.arange(32.0)), np.zeros((32, 32))):  # one input is never there, or none
        codes, scales = gptq._rounded(matrix, 1, power.astype(np.float32), per_channel=True)
        assert (codes == np.rint(matrix / scales)).all()


@pytest.mark.parametrize("per_channel", [True, False])
def test_what_the_layer_answers_to_other_samples_is_nearer(per_channel):
    matrix = np.random.default_rng(2).standard_normal((64, 16)).astype(np.float32)
    x, other = alike(300, 64), alike(300, 64, seed=5)
    codes, scales = gptq._rounded(matrix, 1, x.T @ x, per_channel=per_channel)
    nearest = np.rint(matrix / scales) * scales
    errors = [np.square(other @ (given - matrix)).sum() for given in (codes * scales, nearest)]
    assert errors[0] < 0.3 * errors[1]


SHARED = """<ir_version: 10, opset_import: ["": 20]>
    g (float[n,8] x, bool flag, int64[k] ids) => (float[n,8] y, float[k,8] z, float[8,8] shown)
    <float[8,8] both = {0}, float[8,8] tied = {0}, float[8,8] shown = {0}, float[8,8] alone = {0},
     float[8,8] within = {0}> {
    [a] h = MatMul(x, both) [b] i = MatMul(h, both) [c] j = MatMul(i, tied) [d] l = MatMul(j, shown)
    [e] m = MatMul(l, alone) [f] o = MatMul(m, within) z = Gather(tied, ids)
    y = If (flag) <then_branch = t () => (float[n,8] s) { s = MatMul(o, within) },
                   else_branch = e () => (float[n,8] u) { u = Identity(o) }> }"""


def test_weights_that_something_else_reads_stay_and_shared_ones_count_once():
    model = onnx.parser.parse_model(SHARED)
    chosen = selection.Selection(tuple("abcdef"), {}, ("x", "h", "i", "j", "l", "m"), ())
    layers = {layer.weight: layer.tensors for layer in gptq._layers(set_aside(model), chosen)}
    assert layers == {"both": ("x", "h"), "alone": ("l",)}


def test_groups_hold_as_much_as_they_may(monkeypatch):
    layers = [gptq._Layer(name, 1, 10, (tensor,)) for name, tensor in ("ax", "bx", "cy", "dz")]
    monkeypatch.setattr(gptq, "_HELD_BYTES", 400)
    assert [[one.weight for one in group] for group in gptq._groups(layers)] == [["a", "b"], ["c"], ["d"]]


def deep(path):
    """Return a graph of linear layers whose inputs go together, and samples of it."""
    artifact = built(MLP, path)
    return artifact, {"x": alike(128, 16)}


def noise(artifact, result, other):
    return sqnr_db(answers(artifact.path, other), answers(result.path, other))


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_graph_keeps_its_scales_and_answers_nearer(tmp_path, encoding):
    artifact, data = deep(tmp_path / "float.onnx")
    plain, better = (
        quantized(artifact, tmp_path / how, data, encoding=encoding, rounding=how) for how in ("nearest", "gptq")
    )
    assert [one.metadata["rounding"] for one in (plain, better)] == ["nearest", "gptq"]
    constants = [
        {one.name: numpy_helper.to_array(one) for one in onnx.load(result.path).graph.initializer}
        for result in (plain, better)
    ]
    assert list(constants[0]) == list(constants[1])
    moved = {name for name, one in constants[0].items() if not np.array_equal(one, constants[1][name])}
    assert moved
    assert all("scale" not in name for name in moved), "codes alone, and biases that are never moved"
    other = alike(200, data["x"].shape[1], seed=7)
    assert noise(artifact, better, other) > noise(artifact, plain, other)


def test_another_encoding_is_written_with_the_same_codes(tmp_path):
    artifact, data = deep(tmp_path / "float.onnx")
    options = {"rounding": "gptq", "equalize": None, "calibrator": "percentile"}
    made = quantized(artifact, tmp_path / "one", data, encoding=Encoding.UINT8_ASYMMETRIC, **options)
    context = context_of(tmp_path / "two", data, encoding=Encoding.INT8_SYMMETRIC)
    again = static.write(artifact, made, static.Options(**options), context)
    codes = [
        {
            one.name: numpy_helper.to_array(one)
            for one in onnx.load(result.path).graph.initializer
            if one.data_type == onnx.TensorProto.INT8 and one.dims
        }
        for result in (made, again)
    ]
    assert codes[0]
    assert all((codes[1][name] == one).all() for name, one in codes[0].items())


def test_db_that_are_asked_for_come_from_rounding_before_a_layer_goes_back_to_float(tmp_path):
    artifact, data = deep(tmp_path / "float.onnx")
    plain, better = (quantized(artifact, tmp_path / how, data, rounding=how).metadata for how in ("nearest", "gptq"))
    between = (plain["sqnr_db"]["y"] + better["sqnr_db"]["y"]) / 2
    assert plain["sqnr_db"]["y"] < between < better["sqnr_db"]["y"]
    asked = quantized(artifact, tmp_path / "asked", data, min_sqnr_db=between).metadata
    assert asked["rounding"] == "gptq"
    assert asked["quantized_nodes"] == plain["quantized_nodes"]
    refused = quantized(artifact, tmp_path / "refused", data, min_sqnr_db=between, rounding="nearest").metadata
    assert len(refused["quantized_nodes"]) < len(plain["quantized_nodes"])
    assert static.Options(method="static").rounding == "auto"


@pytest.mark.parametrize("count", [1, 2, 24, 40])
def test_weights_are_not_judged_on_what_they_were_rounded_on(tmp_path, monkeypatch, count):
    artifact, x = built(MLP, tmp_path / "float.onnx"), alike(count, 16)
    seen = {"rounded": [], "judged": []}
    round_them, compare = gptq.rounded, fidelity.compare

    def rounding(model, selection, feeds, **how):
        seen["rounded"] += [row.tobytes() for feed in feeds() for row in feed["x"]]
        return round_them(model, selection, feeds, **how)

    def comparing(held, *rest):
        seen["judged"] += [row.tobytes() for feed in held.batches for row in feed["x"]]
        return compare(held, *rest)

    monkeypatch.setattr(gptq, "rounded", rounding)
    monkeypatch.setattr(fidelity, "compare", comparing)
    quantized(artifact, tmp_path / "q", {"x": x}, batch=min(count, 8), rounding="gptq", batch_size=8)
    assert seen["judged"]
    assert seen["rounded"]
    if count > 1:
        assert not set(seen["rounded"]) & set(seen["judged"])
