"""How sure answers are, counted into buckets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import softmax

from mmdeploy.scoring.confidence import BUCKETS, are_shares, confidence, counts


@settings(deadline=None)
@given(arrays.arrays(np.float32, (7, 5), elements=st.floats(-80, 80, width=32)))
def test_confidence_of_logits_is_the_largest_of_their_softmax(logits):
    found = confidence(logits, "logits")
    assert found == pytest.approx(softmax(logits.astype(np.float64), axis=1).max(axis=1))
    assert confidence(softmax(logits.astype(np.float64), axis=1), "probabilities") == pytest.approx(found)
    assert sum(counts(found)) == len(logits)


def test_huge_logits_give_a_number():
    assert confidence(np.array([[3e38, -3e38, 0.0]], np.float32), "logits") == [1.0]


def test_an_upper_bound_belongs_to_its_bucket_in_either_precision():
    bounds = np.array(BUCKETS)
    for values in (bounds, bounds.astype(np.float32)):
        assert counts(values) == [1] * 10
    assert counts(np.array([0.05, 0.11, 0.999])) == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "shares"),
    [([[0.2, 0.8], [1.0, 0.0]], True), ([[0.2, 0.9]], False), ([[-0.5, 1.5]], False), (np.empty((0, 2)), False)],
)
def test_shares_are_told_from_other_scores(rows, shares):
    assert are_shares(np.array(rows)) is shares
