"""The smallest change that samples show, and what their number alone cannot."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.gates import accuracy
from mmdeploy.gates.foreseen import foreseen
from mmdeploy.scoring.comparison import drop_interval, smallest_effect


def test_a_change_of_that_size_is_seen_in_four_of_five_sets() -> None:
    samples, random = 1500, np.random.default_rng(0)
    right = np.ones(samples)
    ends = drop_interval(right, right, larger_is_better=True, confidence=0.95, seed=0)
    effect = smallest_effect(ends, 0.95, units=samples)
    assert effect is not None
    seen = 0
    for _ in range(400):
        worse = (random.random(samples) >= effect).astype(float)
        seen += drop_interval(right, worse, larger_is_better=True, confidence=0.95, seed=0)[0] > 0
    assert 0.7 < seen / 400 < 0.95


@given(st.integers(2, 5000), st.floats(0.6, 0.999), st.floats(0.0, 1.0))
def test_it_shrinks_with_samples_and_grows_with_confidence(samples: int, confidence: float, share: float) -> None:
    def effect(units: int, level: float) -> float:
        one = np.ones(units)
        other = (np.arange(units) >= share * units / 3).astype(float)
        ends = drop_interval(one, other, larger_is_better=True, confidence=level, seed=0)
        found = smallest_effect(ends, level, units=units)
        assert found is not None and 0 < found <= 1
        return found

    assert effect(4 * samples, confidence) <= effect(samples, confidence) + 1e-12
    assert effect(samples, min(0.9999, confidence * 1.0005)) >= effect(samples, confidence) - 1e-9


def test_an_unknown_interval_shows_nothing() -> None:
    assert smallest_effect((-math.inf, 0.1), 0.95) is None
    assert smallest_effect((0.0, 0.0), 0.95) == 0.0


def options(**fields: object) -> accuracy.Options:
    return accuracy.Options.model_validate({"metric": "top1", **fields})


@pytest.mark.parametrize(
    ("fields", "samples", "said"),
    [
        ({"max_drop": 0.01, "rule": "interval"}, 100, "cannot pass: with 100 evaluation samples"),
        ({"max_drop": 0.01, "rule": "interval"}, 1000, None),
        ({"max_drop": 0.01}, 300, "has few samples: with 300 a true drop of"),
        ({"max_drop": 0.01}, 3000, None),
        ({"min": 0.5}, 3, None),
        ({"max_drop": 0.01, "metric": "f1_macro"}, 3, None),  # their number alone does not tell
        ({"max_drop": 0.0}, 3, None),  # asks for no loss at all
    ],
)
def test_what_is_foreseen(fields: dict[str, object], samples: int, said: str | None) -> None:
    found = foreseen(options(**fields), samples)
    assert found is None if said is None else found is not None and said in found


@given(st.integers(1, 4000), st.floats(0.001, 0.3))
def test_a_gate_that_is_said_not_to_pass_does_not_pass_where_nothing_changes(samples: int, limit: float) -> None:
    said = foreseen(options(max_drop=limit, rule="interval"), samples)
    right = np.ones(samples)
    high = drop_interval(right, right, larger_is_better=True, confidence=0.95, seed=0)[1]
    assert (said is not None) == (high > limit)
