"""A fault is planted somewhere in a graph: the comparison must name its tensor, and only steady noise none."""

import numpy as np
from debug_graphs import REACH, Planted, float_chain, int8_chain, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.debugging import pairs, tolerances
from mmdeploy.debugging.figures import Tolerance
from mmdeploy.debugging.tensors import TensorGraph
from mmdeploy.debugging.unoptimized import Bounds, Unoptimized, compare, first_bad, grows_most

BATCHES = [samples(seed=0), samples(seed=1)]


def _reference(model):
    graph = TensorGraph(model)
    session = Unoptimized(graph.watched(graph.computed))
    return {*graph.computed, *graph.inputs}, lambda batch: BATCHES[batch] | session.run(BATCHES[batch])


def _compared(model, reference_model, bounds):
    known, reference = _reference(reference_model)
    graph = TensorGraph(model)
    return compare(graph, pairs.quantized(graph, known), reference, BATCHES, bounds)


INT8 = Bounds(*tolerances.quantized(None))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7).flatmap(lambda layers: st.tuples(st.just(layers), st.integers(0, layers - 1))))
def test_a_changed_weight_is_found_wherever_it_lies(where):
    layers, wrong = where
    exact = Bounds(Tolerance(60.0), Tolerance(60.0))
    found = _compared(float_chain(layers, wrong=wrong), float_chain(layers), exact)
    assert first_bad(found).tensor == f"g{wrong}"
    assert [one.tensor for one in found if not one.own_within] == [f"g{wrong}"]
    before = [one for one in found if one.tensor in {f"t{index}" for index in range(wrong)}]
    assert all(one.sqnr_db is None and one.own_sqnr_db is None for one in before)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 7).flatmap(lambda layers: st.tuples(st.just(layers), st.integers(0, layers - 1))),
    st.sampled_from(["range", "weight", "bias"]),
)
def test_a_fault_of_an_int8_graph_is_told_from_its_noise(where, kind):
    layers, layer = where
    found = _compared(int8_chain(layers, Planted(layer, kind)), float_chain(layers), INT8)
    source = f"t{layer - 1}" if layer else "x"
    culprit = f"{source}_DequantizeLinear_Output" if kind == "range" else f"g{layer}"
    assert first_bad(found).tensor == culprit
    assert not first_bad(found).own_within
    assert grows_most(found).tensor in (culprit, f"g{layer}", f"t{layer}")


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 8))
def test_steady_noise_of_int8_leaves_no_tolerance(layers):
    found = _compared(int8_chain(layers), float_chain(layers), INT8)
    assert first_bad(found) is None
    assert len(found) == 3 * layers  # as computed, and rounded where it is read: x, t0 … and both of each layer
    assert all(one.own_sqnr_db is None or one.own_sqnr_db > 25 for one in found)


def test_errors_that_add_up_are_named_where_they_have_gone_too_far():
    """No node is bad by itself; a tolerance on the sum is, between the first noise and the last."""
    noise = [one.sqnr_db for one in _compared(int8_chain(8), float_chain(8), INT8) if one.sqnr_db is not None]
    least = (noise[0] + min(noise)) / 2
    found = _compared(int8_chain(8), float_chain(8), Bounds(Tolerance(least), Tolerance(20.0)))
    first = first_bad(found)
    assert first is not None and first.own_within and not first.within
    earlier = found[: found.index(first)]
    assert earlier and all(one.sqnr_db is None or one.sqnr_db >= least for one in earlier)


def test_the_figures_are_those_of_the_worst_batch():
    quiet, loud = samples(seed=2), {"x": samples(seed=3)["x"] * 50}  # beyond the range that codes reach
    graph = TensorGraph(int8_chain(2))
    reference_graph = TensorGraph(float_chain(2))
    session = Unoptimized(reference_graph.watched(reference_graph.computed))
    batches = [quiet, loud, quiet]
    matched = pairs.quantized(graph, {*reference_graph.computed, "x"})
    found = compare(graph, matched, lambda batch: batches[batch] | session.run(batches[batch]), batches, INT8)
    first = first_bad(found)
    assert (first.label, first.batch) == ("x, rounded", 1)
    np.testing.assert_allclose(first.max_error, np.abs(loud["x"]).max() - REACH, rtol=1e-5)
