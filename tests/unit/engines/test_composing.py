"""Several graphs as one: the same numbers, whatever the parts call their own; refused where they cannot be."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from mmdeploy.core.errors import EngineError
from mmdeploy.core.sessions import AS_WRITTEN, SessionRunner, open_session
from mmdeploy.engines.composing import Part, compose

TOWER = """<ir_version: 10, opset_import: ["" : 20]>
g (float[N,4] x) => (float[N,4] y)
<float[4] w = {1.0, 2.0, 3.0, 4.0}>
{ t = Add(x, w)
  c = ReduceSum<keepdims = 0>(t)
  z = Constant<value = float {0.0}>()
  b = Greater(c, z)
  y = If(b) <
    then_branch = g1 () => (float[N,4] o) <float[4] k = {2.0, 2.0, 2.0, 2.0}> { o = Mul(t, k) },
    else_branch = g2 () => (float[N,4] o) { o = Neg(t) }
  >
}"""
HEAD = """<ir_version: 10, opset_import: ["" : 20]>
g (float[N,4] x, float[N,4] y) => (float[N,4] sum, float[N,4] same)
{ sum = Add(x, y)
  same = Identity(x)
}"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(parser.parse_model(text), path)
    return path


def parts(folder: Path, tower: str = TOWER, head: str = HEAD) -> list[Part]:
    return [
        Part("left", written(folder, "left", tower), {"x": "a"}, {"y": "left_out"}),
        Part("right", written(folder, "right", TOWER), {"x": "b"}, {"y": "right_out"}),
        Part("head", written(folder, "head", head), {"x": "left_out", "y": "right_out"}, {"sum": "s", "same": "same"}),
    ]


def asked(path: Path, **feed: np.ndarray) -> dict[str, np.ndarray]:
    onnx.checker.check_model(str(path), full_check=True)
    return dict(SessionRunner(open_session(path, {}, graph_level=AS_WRITTEN)).infer(feed))


def by_hand(x: np.ndarray) -> np.ndarray:
    shifted = x + np.array([1, 2, 3, 4], np.float32)
    return shifted * 2 if shifted.sum() > 0 else -shifted


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("sign", [1, -50])
def test_graphs_with_the_same_names_and_graphs_inside_are_one_with_the_same_numbers(
    tmp_path: Path, rows: int, sign: int
) -> None:
    compose(parts(tmp_path), ["s", "left_out"], tmp_path / "whole.onnx")
    random = np.random.default_rng(0)
    a = (sign * random.random((rows, 4))).astype(np.float32)
    b = random.random((rows, 4)).astype(np.float32)
    found = asked(tmp_path / "whole.onnx", a=a, b=b)
    assert list(found) == ["s", "left_out"]
    np.testing.assert_array_equal(found["s"], by_hand(a) + by_hand(b))
    np.testing.assert_array_equal(found["left_out"], by_hand(a))


def test_one_tensor_may_be_read_by_two_and_given_under_two_names(tmp_path: Path) -> None:
    graph = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[N,4] x) => (float[N,4] x, float[N,4] w)
    <float[1,4] w = {1.0, 2.0, 3.0, 4.0}> { }"""
    through = Part("through", written(tmp_path, "through", graph), {"x": "a"}, {"x": "a_again", "w": "weights"})
    left, right, _ = parts(tmp_path)
    both = [through, left, Part("right", right.graph, {"x": "a_again"}, {"y": "right_out"})]
    compose(both, ["a_again", "weights", "left_out", "right_out"], tmp_path / "whole.onnx")
    a = np.ones((1, 4), np.float32)
    found = asked(tmp_path / "whole.onnx", a=a)
    np.testing.assert_array_equal(found["a_again"], a)
    np.testing.assert_array_equal(found["weights"], [[1, 2, 3, 4]])
    np.testing.assert_array_equal(found["left_out"], found["right_out"])


def test_weights_in_common_are_written_once_where_they_may_be(tmp_path: Path) -> None:
    for shared, count in ((False, 2), (True, 1)):
        path = tmp_path / f"{shared}.onnx"
        compose(parts(tmp_path), ["s"], path, shared=shared)
        assert len(onnx.load(path).graph.initializer) == count


def test_weights_that_lie_outside_of_a_part_are_in_the_whole(tmp_path: Path) -> None:
    found = parts(tmp_path)
    model = onnx.load(found[0].graph)
    for weight in model.graph.initializer:  # only raw data may lie outside
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight), weight.name))
    onnx.save(model, found[0].graph, save_as_external_data=True, size_threshold=0, location="w.data")
    compose(found, ["s"], tmp_path / "elsewhere.onnx")
    found[0].graph.with_name("w.data").unlink()
    a = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(asked(tmp_path / "elsewhere.onnx", a=a, b=a)["s"], 2 * by_hand(a))


def test_another_opset_is_refused_by_the_names_of_both(tmp_path: Path) -> None:
    found = parts(tmp_path, tower=TOWER.replace("20", "19"))
    with pytest.raises(EngineError, match=r"left is of opset 19 of ai\.onnx, right of 20"):
        compose(found, ["s"], tmp_path / "whole.onnx")


def test_what_is_no_graph_is_named(tmp_path: Path) -> None:
    found = parts(tmp_path)
    found[1].graph.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"right: right\.onnx is not a readable ONNX graph"):
        compose(found, ["s"], tmp_path / "whole.onnx")
