"""Scale, exact match, overlap and noise, each against a plain loop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmdeploy.scoring import closeness

ROWS = hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32))
IDS = hnp.arrays(np.int64, (3, 5), elements=st.integers(0, 4))


@given(ROWS, ROWS)
def test_the_scale_error_is_the_distance_of_the_ratio_of_norms_from_one(reference, candidate):
    for found, theirs, ours in zip(
        closeness.per_sample_scale_error(reference, candidate),
        reference.astype(float),
        candidate.astype(float),
        strict=True,
    ):
        before, after = math.hypot(*theirs), math.hypot(*ours)
        if before == after == 0:
            assert found == 0
        elif before == 0:
            assert found > 1e100
        else:
            assert found == pytest.approx(abs(after / before - 1), rel=1e-6, abs=1e-6)
    assert closeness.per_sample_scale_error(reference, reference).max() < 1e-9


@given(IDS, IDS, st.integers(1, 7))
def test_the_overlap_of_ids_is_that_of_their_first_k(reference, candidate, k):
    found = closeness.per_sample_overlap(reference, candidate, k)
    for share, theirs, ours in zip(found, reference.tolist(), candidate.tolist(), strict=True):
        assert share == len(set(theirs[:k]) & set(ours[:k])) / len(set(theirs[:k]))


def test_the_overlap_of_scores_is_that_of_the_places_of_the_largest():
    reference, candidate = np.array([[0.1, 0.9, 0.5, 0.2]]), np.array([[0.9, 0.8, 0.1, 0.2]])
    assert closeness.per_sample_overlap(reference, candidate, 2).tolist() == [0.5]
    assert closeness.per_sample_overlap(reference, candidate, 1).tolist() == [0.0]


@given(IDS, IDS)
def test_the_exact_match_is_of_whole_samples(reference, candidate):
    found = closeness.per_sample_equal(reference, candidate)
    assert found.tolist() == [
        float(theirs == ours) for theirs, ours in zip(reference.tolist(), candidate.tolist(), strict=True)
    ]


def test_the_noise_is_that_of_the_output_that_changed():
    ids, still, moved = np.array([[1], [2]]), np.ones((2, 3)), np.ones((2, 3))
    original = {"ids": ids, "still": still, "moved": moved}
    candidate = {"ids": ids, "still": still, "moved": moved * np.array([[1.0], [1.1]])}
    sqnr_db, cosine = closeness.output_noise(original, candidate)
    assert sqnr_db == pytest.approx((150.0 + 20.0) / 2)
    assert cosine == pytest.approx(1.0)
    assert closeness.output_noise(original, original) == (math.inf, 1.0)
    assert closeness.output_noise(original, candidate, np.array([False, True])) == (-math.inf, 0.5)


@given(ROWS, ROWS)
def test_the_norm_error_is_a_share_of_the_norm_or_of_the_usual_norm(reference, candidate):
    found = closeness.per_sample_norm_error(reference, candidate)
    norms = [[math.hypot(*row) for row in array.astype(float)] for array in (reference, candidate)]
    usual = math.sqrt(sum(norm**2 for norm in norms[0]) / len(norms[0]))
    for share, before, after in zip(found, *norms, strict=True):
        if before == after or max(before, usual) == 0:
            assert share == (0 if before == after else 1e300)
        else:
            assert share == pytest.approx(abs(after - before) / max(before, usual), rel=1e-6, abs=1e-9)
