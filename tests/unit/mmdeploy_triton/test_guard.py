"""Checks written into graphs, run by ONNX Runtime as Triton's native backend runs them."""

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser
from onnx.reference import ReferenceEvaluator

from mmdeploy.core.artifact import NUMPY_BY_DTYPE, Artifact, TensorSpec
from mmdeploy.core.sizes import Size
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.guard import Guard, guards_of, write_guards
from mmdeploy.triton.options import Serving
from mmdeploy.triton.staging import stage

ONNX_NAMES = {"FP16": "float16", "FP32": "float", "FP64": "double"} | {
    name: name.lower() for name in NUMPY_BY_DTYPE if "INT" in name
}


def guarded(dtype: str, span: tuple[float, float] | None = None) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : 20]> g ({ONNX_NAMES[dtype]}[N,3] x) => ({ONNX_NAMES[dtype]}[N,3] y) '
    model = parser.parse_model(text + "{ y = Identity(x) }")
    write_guards(model, [Guard(TensorSpec("x", dtype, (3,)), "pixels", span)])
    onnx.checker.check_model(model, full_check=True)
    return model


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("dtype", ["FP16", "FP32", "FP64"])
def test_what_is_not_finite_is_refused_by_the_name_that_clients_know(dtype):
    numpy = NUMPY_BY_DTYPE[dtype]
    asked = session(guarded(dtype))
    right = np.array([[0, -1.5, np.finfo(numpy).max]], numpy)
    np.testing.assert_array_equal(asked.run(None, {"x": right})[0], right)
    for value in (np.nan, np.inf, -np.inf):
        wrong = right.copy()
        wrong[0, 1] = value
        with pytest.raises(Exception, match="Name:'input 'pixels' holds NaN or infinite values'"):
            asked.run(None, {"x": wrong})
    np.testing.assert_array_equal(asked.run(None, {"x": right})[0], right)


@pytest.mark.parametrize("dtype", ["INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "FP16", "FP32"])
def test_what_is_outside_of_the_range_is_refused(dtype):
    numpy = NUMPY_BY_DTYPE[dtype]
    asked = session(guarded(dtype, (2, 5)))
    right = np.array([[2, 3, 5], [5, 4, 2]], numpy)
    np.testing.assert_array_equal(asked.run(None, {"x": right})[0], right)
    for value in (1, 6, 100):
        wrong = right.copy()
        wrong[1, 2] = value
        with pytest.raises(Exception, match=r"Name:'input 'pixels' holds values outside \[2, 5\]'"):
            asked.run(None, {"x": wrong})


RANGED = session(guarded("FP32", (-1, 1)))
REFERENCE = ReferenceEvaluator(guarded("FP32", (-1, 1)))


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=3, max_size=9).filter(lambda values: len(values) % 3 == 0))
def test_exactly_what_breaks_a_rule_is_refused(values):
    x = np.array(values, np.float32).reshape(-1, 3)
    if np.isfinite(x).all() and (np.abs(x) <= 1).all():
        for answer in (RANGED.run(None, {"x": x}), REFERENCE.run(None, {"x": x})):
            np.testing.assert_array_equal(answer[0], x)
    else:
        with pytest.raises(Exception, match="input 'pixels' holds"):
            RANGED.run(None, {"x": x})


def test_only_what_clients_send_is_checked_and_integers_only_where_they_have_a_range():
    specs = [TensorSpec("a", "FP32", (1,)), TensorSpec("b", "INT64", (1,)), TensorSpec("c", "INT64", (1,)),
             TensorSpec("inner", "FP32", (1,))]  # fmt: skip
    found = guards_of(specs, {"a": "image", "b": "ids", "c": "mask"}, {"b": (0, 9), "inner": (0, 1)})
    assert [(guard.spec.name, guard.shown, guard.span) for guard in found] == [
        ("a", "image", None), ("b", "ids", (0, 9)),
    ]  # fmt: skip


def test_a_staged_graph_refuses_for_whoever_serves_it(tmp_path):
    """As a release container would: no backend of ours between the request and ONNX Runtime."""
    source = tmp_path / "engine" / "model.onnx"
    source.parent.mkdir()
    text = '<ir_version: 10, opset_import: ["" : 20]> g (int64[N,2] ids, float[N,1] inner) => (float[N,2] y) '
    text += "<float[5] table = {10.0, 11.0, 12.0, 13.0, 14.0}> { rows = Gather(table, ids) y = Add(rows, inner) }"
    onnx.save(parser.parse_model(text), source)
    ids, inner, y = TensorSpec("ids", "INT64", (2,)), TensorSpec("inner", "FP32", (1,)), TensorSpec("y", "FP32", (2,))
    component = ServedComponent(
        "pair.text", "onnxruntime", "model.onnx", Artifact("onnxruntime", source, "", (ids, inner), (y,), "test"),
        inputs={"ids": "tokens", "inner": "inner_embedding"}, outputs={"y": "scores"},
        serving=Serving(guard="graph"), input_rules={"ids": {"range": [0, 4], "tensor": "tokens"}},
    )  # fmt: skip
    tokens, scores = TensorSpec("tokens", "INT64", (2,)), TensorSpec("scores", "FP32", (2,))
    for name in ("first", "second"):
        stage(tmp_path / name, ServedEnsemble("pair", (tokens,), (scores,), (component,)))
    staged = [tmp_path / name / "pair.text" / "1" / "model.onnx" for name in ("first", "second")]
    assert staged[0].read_bytes() == staged[1].read_bytes()
    asked = ort.InferenceSession(str(staged[0]), providers=["CPUExecutionProvider"])
    zero = np.zeros((1, 1), np.float32)
    np.testing.assert_array_equal(asked.run(None, {"ids": np.array([[0, 4]]), "inner": zero})[0], [[10, 14]])
    for token in (-1, 5):  # -1 would be the last row, as NumPy has it
        with pytest.raises(Exception, match=r"input 'tokens' holds values outside \[0, 4\]"):
            asked.run(None, {"ids": np.array([[0, token]]), "inner": zero})
    assert np.isnan(asked.run(None, {"ids": np.array([[0, 4]]), "inner": zero * np.nan})[0]).all(), "no client sends it"


TOKENS = Size("tokens", 4, 12, 4)


def test_lengths_that_are_none_of_their_size_are_refused_by_a_graph():
    text = '<ir_version: 10, opset_import: ["" : 20]> g (int64[N,T] ids, float[N,T,2] seen) => (int64[N,T] a, '
    model = parser.parse_model(text + "float[N,T,2] b) { a = Identity(ids) b = Identity(seen) }")
    specs = (TensorSpec("ids", "INT64", (-1,), (TOKENS,)), TensorSpec("seen", "FP32", (-1, 2), (TOKENS, None)))
    write_guards(model, guards_of(specs, {"ids": "text", "seen": "mask"}, {}))
    onnx.checker.check_model(model, full_check=True)
    asked = session(model)

    def ask(ids: int, seen: int) -> None:
        asked.run(None, {"ids": np.ones((2, ids), np.int64), "seen": np.ones((2, seen, 2), np.float32)})

    for length in (4, 8, 12):
        ask(length, length)
    for lengths, told in {
        (16, 16): "' has a length outside of 4 to 12 of the size 'tokens'",
        (6, 6): "' has a length that is no multiple of 4, as 'tokens' must be",
        (4, 8): "inputs 'mask' and 'text' differ in length: both have the size 'tokens'",
    }.items():
        with pytest.raises(Exception, match=re.escape(told)):
            ask(*lengths)
