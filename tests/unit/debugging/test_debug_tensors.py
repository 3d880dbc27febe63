"""Graphs as nets of tensors, and pieces cut out of them."""

import numpy as np
import onnx
import pytest
from debug_graphs import float_chain, int8_chain, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from mmdeploy.debugging.tensors import OWN, TensorGraph
from mmdeploy.debugging.unoptimized import Unoptimized

BRANCHES = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 4] x, float[n, 4] y, bool c) => (float[n, 4] z) <float[4] w = {1, 2, 3, 4}> {
        a = Mul(x, w)
        b = Relu(y)
        d = If(c) <then_branch = t () => (float[n, 4] p) { p = Neg(a) },
                   else_branch = e () => (float[n, 4] q) { q = Identity(b) }>
        k = Exp(w)
        z = Add(d, k)
    }"""


@pytest.fixture
def branches():
    return TensorGraph(parser.parse_model(BRANCHES))


def test_what_depends_on_weights_alone_is_no_activation(branches):
    assert branches.computed == ["a", "b", "d", "z"]
    assert branches.inputs == ["x", "y", "c"]


def test_a_condition_depends_on_what_its_branches_read(branches):
    assert set(branches.before("d", ["a", "b"])) == {"c", "a", "b"}
    assert set(branches.before("z", ["a"])) == {"c", "a", "y"}
    assert branches.upstream("z", {"a", "b", "d"}) == {"a", "b", "d", "z"}


def test_nodes_that_are_out_of_order_are_put_in_order():
    model = parser.parse_model(BRANCHES)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert TensorGraph(model).computed == TensorGraph(parser.parse_model(BRANCHES)).computed


def _all_tensors(graph: TensorGraph, feed):
    return feed | Unoptimized(graph.watched(graph.computed)).run(feed)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_piece_answers_as_the_whole_does_there(data):
    """Wherever it starts and ends, and at another batch size too."""
    layers = data.draw(st.integers(1, 5))
    graph = TensorGraph(data.draw(st.sampled_from([float_chain, int8_chain]))(layers))
    end = data.draw(st.sampled_from([f"{kind}{index}" for index in range(layers) for kind in "gt"]))
    stops = data.draw(st.sets(st.sampled_from([f"{kind}{index}" for index in range(layers) for kind in "gt"])))
    values = _all_tensors(graph, samples())
    piece = graph.cut_out({name: values[name] for name in graph.before(end, stops - {end})}, [end])
    onnx.checker.check_model(piece, full_check=True)
    others = _all_tensors(graph, samples(count=3, seed=9))
    np.testing.assert_array_equal(Unoptimized(piece).run(others)[end], others[end])
    assert len(piece.graph.node) <= len(graph.model.graph.node)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.data())
def test_fed_exactly_what_it_computes_a_graph_shows_no_error(layers, data):
    graph = TensorGraph(int8_chain(layers))
    values = _all_tensors(graph, samples())
    given_names = data.draw(st.sets(st.sampled_from([f"t{index}" for index in range(layers)])))
    model = graph.fed({name: values[name] for name in given_names}, graph.computed)
    for name, answer in Unoptimized(model).run(values).items():
        np.testing.assert_array_equal(answer, values[name.removesuffix(OWN)])
