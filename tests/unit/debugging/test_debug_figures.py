"""Figures of a tensor against its reference: as defined, and the same that Polygraphy's command judges by."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from polygraphy.comparator import IterationResult

from mmdeploy.debugging.figures import LOWEST_DB, Tolerance, measure, quiet
from mmdeploy.debugging.reduction import _stricter

FLOATS = arrays.arrays(
    np.float32, (2, 5), elements=st.floats(-100, 100, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
)


@settings(max_examples=100, deadline=None)
@given(FLOATS, FLOATS)
def test_sqnr_is_signal_over_noise(reference, answer):
    found = measure(reference, answer, Tolerance(20.0))
    signal = float(np.square(reference.astype(np.float64)).sum())
    noise = float(np.square(reference.astype(np.float64) - answer).sum())
    if noise == 0:
        assert found.sqnr_db is None and found.within
    elif signal == 0:
        assert found.sqnr_db == LOWEST_DB and not found.within
    else:
        assert found.sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)
        assert found.max_error == pytest.approx(np.abs(reference - answer).max())


@settings(max_examples=200, deadline=None)
@given(FLOATS, FLOATS, st.floats(-10, 60))
def test_what_fails_here_fails_in_polygraphys_command(reference, answer, least_db):
    """The command takes the answer for the signal."""
    if measure(reference, answer, Tolerance(least_db)).within:
        return
    with quiet():
        judged = _stricter(Tolerance(least_db)).compare_func()(
            IterationResult({"y": answer}), IterationResult({"y": reference})
        )
    assert not judged["y"]


def test_a_mask_of_infinities_on_both_sides_is_no_difference():
    reference = np.array([[-np.inf, 1.0, 2.0]], np.float32)
    answer = np.array([[-np.inf, 1.0, 2.1]], np.float32)
    found = measure(reference, answer, Tolerance(20.0))
    assert found.within and found.finite and found.sqnr_db == pytest.approx(10 * math.log10(5 / 0.01), abs=0.01)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_not_finite_on_one_side_only_is_outside_of_every_tolerance(odd):
    for tolerance in (Tolerance(-100.0), Tolerance(rtol=1e9, atol=1e9)):
        found = measure(np.ones((1, 3), np.float32), np.array([[1, odd, 1]], np.float32), tolerance)
        assert not found.within and not found.finite


def test_another_shape_is_outside_of_every_tolerance():
    assert not measure(np.ones((2, 3), np.float32), np.ones((3, 2), np.float32), Tolerance(-100.0)).within


def test_elements_are_judged_as_polygraphy_does_by_either_tolerance():
    reference, answer = np.array([[1.0, 100.0]], np.float32), np.array([[1.005, 101.0]], np.float32)
    assert measure(reference, answer, Tolerance(rtol=0.02, atol=0.0)).within
    assert measure(reference, answer, Tolerance(rtol=0.001, atol=1.1)).within
    assert not measure(reference, answer, Tolerance(rtol=0.001, atol=0.01)).within


def test_integers_and_booleans_are_compared_without_overflow():
    big = np.array([[2**40, -(2**40)]], np.int64)
    found = measure(big, big + 2**20, Tolerance(100.0))
    assert found.sqnr_db == pytest.approx(20 * math.log10(2**20), abs=0.1)
    assert not measure(np.array([[True, False]]), np.array([[True, True]]), Tolerance(3.0)).within
