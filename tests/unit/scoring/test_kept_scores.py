"""Scores of samples, kept in a report and taken out again."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.scoring.kept import KEPT, kept, scores_in

scores = st.one_of(
    st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=70),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=70),
)


@given(scores)
def test_scores_come_back_from_json(values: list[float]) -> None:
    details = json.loads(json.dumps({KEPT: kept(np.array(values))}))
    found = scores_in(details)
    assert found is not None and found.dtype == np.float64
    np.testing.assert_array_equal(found, np.array(values, np.float32).astype(np.float64))


def test_right_and_wrong_answers_take_a_bit_each() -> None:
    answers = np.random.default_rng(0).integers(0, 2, 80_000).astype(float)
    assert len(json.dumps(kept(answers))) < 14_000


@pytest.mark.parametrize(
    "broken",
    [{}, {KEPT: None}, {KEPT: {}}, {KEPT: {"count": 1, "type": "bits", "zlib": "?"}},
     {KEPT: {**kept(np.ones(9)), "count": 20}}, {KEPT: {**kept(np.full(3, 0.5)), "count": 2}}],
)  # fmt: skip
def test_what_cannot_be_read_is_none(broken: dict[str, object]) -> None:
    assert scores_in(broken) is None
