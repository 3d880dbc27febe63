"""Samples in chunks: how they are cut, the states of graphs, and what is no state that could be kept."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import EngineError, InferenceError
from mmdeploy.core.sizes import Size
from mmdeploy.triton.recurrent_state import State, states_of, written
from mmdeploy.triton.sequences import Chunks, Cut

FRAMES = Size("frames", 2, 9)
MADE = Size("each_0(frames)", 2, 9)
INPUTS = (TensorSpec("signal", "FP32", (3, -1), (None, FRAMES)), TensorSpec("tone", "FP32", (2,)))
OUTPUTS = (TensorSpec("each", "FP32", (-1,), (MADE,)), TensorSpec("last", "FP32", (1,)))


@given(length=st.integers(1, 60), chunk=st.integers(1, 9), least=st.integers(1, 9))
def test_pieces_are_the_whole_and_none_is_too_short(length, chunk, least):
    pieces = Cut(chunk, min(least, chunk), {}, {}).pieces(length)
    assert [place for piece in pieces for place in range(piece.start, piece.stop)] == [*range(length)]
    sizes = [piece.stop - piece.start for piece in pieces]
    assert len(sizes) == 1 or min(sizes) >= min(least, chunk)
    assert max(sizes) < chunk + min(least, chunk)


def test_rows_are_sequences_and_answers_are_joined():
    cut, asked = Cut.of("frames", 4, 2, INPUTS, OUTPUTS), []
    assert Cut.from_parameter(cut.to_parameter()) == cut and Cut.from_parameter("") is None

    def ask(feed, marks):
        asked.append((feed["signal"].shape, feed["tone"].shape, marks))
        return {"each": feed["signal"][:, 0], "last": feed["signal"][:, 0, -1:]}

    signal = np.arange(54, dtype=np.float32).reshape(2, 3, 9)
    found = cut.whole({"signal": signal, "tone": np.zeros((2, 2), np.float32)}, ask, "flow")
    np.testing.assert_array_equal(found["each"], signal[:, 0])
    np.testing.assert_array_equal(found["last"], signal[:, 0, -1:])
    assert [shape for shape, _, _ in asked] == [(1, 3, 4), (1, 3, 5)] * 2
    assert {tone for _, tone, _ in asked} == {(1, 2)}
    marks = [tuple(one.values()) for _, _, one in asked]
    assert [(start, end) for _, start, end in marks] == [(True, False), (False, True)] * 2
    assert marks[0][0] == marks[1][0] != marks[2][0] == marks[3][0]


def test_what_is_cut_has_one_length():
    with pytest.raises(InferenceError, match="one length, found a 3, b 4"):
        Cut(2, 1, {"a": 0, "b": 0}, {}).whole({"a": np.zeros((1, 3)), "b": np.zeros((1, 4))}, None, "flow")


@pytest.mark.parametrize(
    ("sizes", "told"),
    [({"a": (1, 3), "b": (2, 3)}, "found a 1, b 2"), ({"a": (0, 3)}, "found a 0"), ({}, "found no input"),
     ({"a": (1,)}, "a is cut along axis 1")],
)  # fmt: skip
def test_rows_are_as_many_in_each_input(sizes, told):
    """Else rows were dropped in silence."""
    with pytest.raises(InferenceError, match=told):
        Cut(2, 1, {"a": 0}, {}).whole({name: np.zeros(shape) for name, shape in sizes.items()}, None, "flow")


def test_a_sequence_in_which_something_failed_is_over():
    def ask(feed, marks):
        if marks["sequence_start"]:
            return {}
        raise InferenceError("no")

    sequence = Chunks(ask)
    sequence.infer({})
    with pytest.raises(InferenceError, match=r"^no$"):
        sequence.infer({})
    with pytest.raises(InferenceError, match="is over: a chunk of it failed"):
        sequence.infer({})


@pytest.mark.parametrize("failing", [False, True])
def test_a_sequence_that_is_left_is_ended_by_the_least_that_was_answered(failing):
    asked = []

    def ask(feed, marks):
        asked.append((feed, marks))
        if failing and len(asked) > 2:
            raise InferenceError("no")
        return {}

    cut, signal = Cut.of("frames", 4, 2, INPUTS, OUTPUTS), np.arange(24.0).reshape(1, 3, 8)
    with Chunks(ask, cut) as sequence:
        for start in (0, 4):
            sequence.infer({"signal": signal[:, :, start : start + 4], "tone": np.ones((1, 2))})
        if failing:
            with pytest.raises(InferenceError, match="no"):
                sequence.infer({"signal": np.full((1, 3, 4), np.nan), "tone": np.ones((1, 2))})
    feed, marks = asked[-1]
    np.testing.assert_array_equal(feed["signal"], signal[:, :, 4:6])
    assert feed["tone"].shape == (1, 2)
    assert marks == asked[0][1] | {"sequence_start": False, "sequence_end": True}
    count = len(asked)
    sequence.close()
    with pytest.raises(InferenceError, match="is over: a chunk of it failed" if failing else "was closed"):
        sequence.infer({})
    assert len(asked) == count


def test_nothing_is_sent_to_end_what_never_began_or_has_ended():
    asked = []
    for ends in (False, True):
        with Chunks(lambda feed, marks: asked.append(marks) or {}) as sequence:
            if ends:
                sequence.infer({}, end=True)
    assert len(asked) == 1


def graph(tmp_path: Path, text: str) -> Path:
    head = '<ir_version: 10, opset_import: ["" : 20]>\n'
    model = onnx.parser.parse_model(head + text)
    for node in model.graph.node:
        if node.op_type in ("GRU", "LSTM"):
            node.attribute.append(onnx.helper.make_attribute("hidden_size", 2))
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def weights(gates: int, hidden: str = "") -> str:
    ones = ", ".join(["0.3"] * (gates * 2 * 2))
    return f"<float[1, {gates * 2}, 2] W = {{{ones}}}, float[1, {gates * 2}, 2] R = {{{ones}}}{hidden}>"


PLAIN = "flow (float[T, N, 2] x) => (float[T, 1, N, 2] y) %s {\n y = GRU(x, W, R)\n}" % weights(3)  # noqa: UP031


def test_a_layer_without_a_first_state_gets_one_from_outside(tmp_path):
    path = graph(tmp_path, PLAIN)
    assert states_of(path, "flow") == (State("hidden_0", "next_hidden_0", "FP32", 2),)
    content = written(path, "flow")
    onnx.checker.check_model(content, full_check=True)
    whole, chunks = onnxruntime.InferenceSession(path), onnxruntime.InferenceSession(content)
    x, state, found = np.random.default_rng(0).normal(size=(7, 3, 2)).astype(np.float32), np.zeros((3, 2)), []
    for start, end in ((0, 1), (1, 5), (5, 7)):
        y, state = chunks.run(None, {"x": x[start:end], "hidden_0": state.astype(np.float32)})
        found.append(y)
    np.testing.assert_allclose(np.concatenate(found), whole.run(None, {"x": x})[0], rtol=1e-6, atol=1e-7)


LSTM = "flow (float[T, N, 2] x) => (float[T, 1, N, 2] y) %s {\n%s y = LSTM(x, W, R, , , h, h)\n}"


@pytest.mark.parametrize(
    ("hidden", "made"),
    [
        ("", " size = Shape<start = 1, end = 2>(x)\n one = Constant<value = int64[1] {1}>()\n"
             " two = Constant<value = int64[1] {2}>()\n all = Concat<axis = 0>(one, size, two)\n"
             " h = ConstantOfShape<value = float[1] {0.0}>(all)\n"),
        (", float[1, 1, 2] zeros = {0, 0}, int64[3] shape = {1, 3, 2}", " h = Expand(zeros, shape)\n"),
    ],
)  # fmt: skip
def test_zeros_are_known_however_they_are_made(tmp_path, hidden, made):
    states = states_of(graph(tmp_path, LSTM % (weights(4, hidden), made)), "flow")
    assert [state.input for state in states] == ["hidden_0", "cell_0"]


def test_zeros_may_lie_in_external_data(tmp_path):
    """A graph above 2 GB has its weights beside it; what a layer begins with is read there."""
    text = LSTM % (
        weights(4, ", float[1, 1, 2] zeros = {0, 0}, int64[3] shape = {1, 3, 2}"),
        " h = Expand(zeros, shape)\n",
    )
    model = onnx.load(path := graph(tmp_path, text))
    for one in model.graph.initializer:  # in bytes, as exporters write them
        one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one), one.name))
    onnx.save_model(model, path, save_as_external_data=True, location="data", size_threshold=0)
    assert [state.input for state in states_of(path, "flow")] == ["hidden_0", "cell_0"]
    data = tmp_path / "data"
    data.write_bytes(b"\1" * data.stat().st_size)
    with pytest.raises(EngineError, match="something else than zeros"):
        states_of(path, "flow")
    for spoil in (lambda: data.write_bytes(b""), data.unlink):
        spoil()
        with pytest.raises(EngineError, match="flow: what its LSTM begins with lies in a file of external data"):
            states_of(path, "flow")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("flow (float[N, 2] x) => (float[N, 2] y) {\n y = Relu(x)\n}", "no GRU, LSTM or RNN in its graph"),
        (LSTM % (weights(4, ", float[1, 1, 2] some = {0, 1}, int64[3] shape = {1, 3, 2}"),
                 " h = Expand(some, shape)\n"), "begins with something else than zeros"),
        (PLAIN.replace("x)", "x, float[1, N, 2] h)").replace("R)", "R, , , h)"), "else than zeros"),
        (PLAIN.replace("R)", "R, , lens)").replace("x)", "x, int32[N] lens)", 1), "told how long each sequence is"),
        ("flow (bool c, float[T, N, 2] x) => (float[T, 1, N, 2] y) %s {\n y = If (c) <\n"  # noqa: UP031
         " then_branch = one () => (float[T, 1, N, 2] a) { a = GRU(x, W, R) },\n"
         " else_branch = two () => (float[T, 1, N, 2] b) { b = GRU(x, W, R) }>\n}" % weights(3), "inside of If"),
        (PLAIN.replace("GRU(x, W, R)", "com.microsoft.DynamicQuantizeLSTM(x, W, R)"), "of dynamic quantization"),
        (PLAIN.replace("GRU(", 'GRU<direction = "reverse">('), "reads reverse"),
    ],
)  # fmt: skip
def test_what_has_no_state_that_could_be_kept_is_told(tmp_path, text, why):
    with pytest.raises(EngineError, match=why):
        states_of(graph(tmp_path, text), "flow")
