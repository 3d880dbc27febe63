"""A graph that is set aside holds no weights, and is the same when they are asked for."""

import gc
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmdeploy.core.sessions import AS_WRITTEN
from mmdeploy.quantize import ranges
from mmdeploy.quantize.set_aside import SetAside, compact, hand_back, set_aside, whole

WIDTH = 64


@pytest.fixture
def model() -> onnx.ModelProto:
    """Two products, with a shape and a bias that are small, and a note in its properties."""
    random = np.random.default_rng(0)
    matrices = [
        numpy_helper.from_array(random.normal(size=(WIDTH, WIDTH)).astype(np.float32), name)
        for name in ("first", "second")
    ]
    small = [
        numpy_helper.from_array(random.normal(size=8).astype(np.float32), "bias"),
        numpy_helper.from_array(np.array([0, 8, WIDTH // 8]), "shape"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["between"], "one"),
        helper.make_node("MatMul", ["between", "second"], ["flat"], "two"),
        helper.make_node("Reshape", ["flat", "shape"], ["folded"], "three"),
        helper.make_node("Transpose", ["folded"], ["turned"], "four", perm=[0, 2, 1]),
        helper.make_node("Add", ["turned", "bias"], ["y"], "five"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], [*matrices, *small])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    made.metadata_props.add(key="note", value="kept")
    return made


def test_its_weights_are_in_a_file_and_come_back_as_they_were(model: onnx.ModelProto) -> None:
    aside = set_aside(model)
    assert [bool(weight.external_data) for weight in aside.graph.initializer] == [True, True, False, False]
    assert aside.model.ByteSize() < WIDTH * WIDTH
    assert aside.whole() == whole(model) == model
    assert set_aside(aside) is aside


def test_it_answers_and_gives_what_is_between(model: onnx.ModelProto) -> None:
    aside, x = SetAside(model), np.ones((2, WIDTH), np.float32)
    first, second, bias = (numpy_helper.to_array(weight) for weight in model.graph.initializer[:3])
    between = helper.make_tensor_value_info("between", TensorProto.FLOAT, None)
    watched, plain = aside.session(1, [between]), aside.session(1, level=AS_WRITTEN)
    folder = aside._folder
    del aside
    gc.collect()
    assert not folder.exists()
    np.testing.assert_allclose(watched.run(None, {"x": x})[0], x @ first, rtol=1e-5)
    assert [output.name for output in plain.get_outputs()] == ["y"]
    turned = (x @ first @ second).reshape(2, 8, WIDTH // 8).transpose(0, 2, 1)
    np.testing.assert_allclose(plain.run(None, {"x": x})[0], turned + bias, rtol=1e-4, atol=1e-4)


def test_a_copy_may_be_without_some_weights(model: onnx.ModelProto) -> None:
    assert compact(model) == model
    assert [weight.name for weight in compact(model, without=["first"]).graph.initializer] == [
        "second",
        "bias",
        "shape",
    ]


def test_a_graph_that_was_watched_is_closed(model: onnx.ModelProto) -> None:
    def sessions() -> int:
        gc.collect()
        return sum(isinstance(one, onnxruntime.InferenceSession) for one in gc.get_objects())

    before = sessions()
    with ranges.watching(model, ["between"], 1) as watch:
        assert [name for name, _ in watch({"x": np.ones((2, WIDTH), np.float32)})] == ["between"]
        assert sessions() == before + 1
    assert sessions() == before
    assert callable(watch)  # held to here


def test_memory_between_what_is_held_goes_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [os.urandom(100_000) for _ in range(1500)]
    del blocks[:-1]
    before = resident()
    hand_back()
    assert before - resident() > 100_000_000
