"""Sorting and dropping in place, through onnx_ir: the graph stays the same function, bit for bit."""

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from mmdeploy.core import graph_passes
from mmdeploy.core.sessions import open_session

FEED = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def _answers(model: onnx.ModelProto) -> list[np.ndarray]:
    return open_session(model.SerializeToString(), {"intra_op_thread_count": "1"}).run(None, FEED)


@st.composite
def _models(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a graph of layers that each read one or two earlier tensors; some are read by nothing."""
    nodes, known = [], ["x"]
    for index in range(draw(st.integers(2, 8))):
        op = draw(st.sampled_from(["Relu", "Add", "Sub", "Mul"]))
        reads = [draw(st.sampled_from(known)), draw(st.sampled_from([*known, "w", "v"]))]
        nodes.append(helper.make_node(op, reads[:1] if op == "Relu" else reads, [f"t{index}"], f"n{index}"))
        known.append(f"t{index}")
    random = np.random.default_rng(1)
    weights = [numpy_helper.from_array(random.standard_normal(4).astype(np.float32), name) for name in ("w", "v")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in known[1:-1]]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", known[-1])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights, value_info=values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@settings(max_examples=60, deadline=None)
@given(_models(), st.randoms(use_true_random=False))
def test_shuffled_nodes_are_put_in_order_and_the_answers_stay_bit_equal(model, random):
    expected = _answers(model)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    nodes = list(model.graph.node)
    random.shuffle(nodes)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)

    graph_passes.sort_nodes(shuffled)

    onnx.checker.check_model(shuffled, full_check=True)
    assert sorted(map(str, shuffled.graph.node)) == sorted(map(str, model.graph.node))
    assert list(shuffled.graph.initializer) == list(model.graph.initializer)
    assert list(shuffled.graph.value_info) == list(model.graph.value_info)
    for before, after in zip(expected, _answers(shuffled), strict=True):
        np.testing.assert_array_equal(before, after)


@settings(max_examples=60, deadline=None)
@given(_models())
def test_only_what_the_outputs_depend_on_is_left_and_the_answers_stay_bit_equal(model):
    expected = _answers(model)
    producers = {node.output[0]: node for node in model.graph.node}
    needed, waiting = set(), [model.graph.output[0].name]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting.extend(itertools.chain(producers[name].input if name in producers else ()))

    graph_passes.drop_unused(model)

    assert {name for node in model.graph.node for name in node.output} == needed & set(producers)
    assert {weight.name for weight in model.graph.initializer} == needed & {"w", "v"}
    assert {value.name for value in model.graph.value_info} <= needed
    for before, after in zip(expected, _answers(model), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_tensor_that_only_the_body_of_a_condition_reads_stays():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 4] x, bool c) => (float[n, 4] y) <float[4] w = {1, 2, 3, 4}, float[4] idle = {0, 0, 0, 0}> {
            product = Mul(x, w)
            unread = Relu(product)
            y = If(c) <then_branch = t () => (float[n, 4] a) { a = Neg(product) },
                       else_branch = e () => (float[n, 4] b) { b = Identity(x) }>
        }""")
    graph_passes.drop_unused(model)
    assert [node.op_type for node in model.graph.node] == ["Mul", "If"]
    assert [weight.name for weight in model.graph.initializer] == ["w"]


def test_nodes_in_a_circle_are_refused():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[4] x) => (float[4] y) { y = Relu(x) }""")
    model.graph.node.extend([helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])
    with pytest.raises(ValueError, match="cycle"):
        graph_passes.sort_nodes(model)
