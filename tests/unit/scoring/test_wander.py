"""Intervals that slow wander does not fool: the critical value, against simulated series."""

import numpy as np
import pytest

from mmdeploy.scoring import served_figures, wander
from mmdeploy.scoring.load import Block, Measurement

TIMES = np.linspace(0.0, 60.0, 48)


def series(share, seconds, count=20_000, seed=0):
    """Draw series of which a share is wander with a time constant, the rest noise."""
    covariance = share * np.exp(-np.abs(np.subtract.outer(TIMES, TIMES)) / seconds) + (1 - share) * np.eye(len(TIMES))
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(TIMES)))
    return np.random.default_rng(seed).normal(size=(count, len(TIMES))) @ root.T


@pytest.mark.parametrize(("share", "seconds"), [(1.0, 20.0), (0.5, 20.0), (0.1, 10.0), (1.0, 5.0), (0.0, 20.0)])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_the_mean_is_within_as_often_as_is_said(share, seconds, confidence):
    drawn = series(share, seconds)
    components, critical = wander._components(tuple(np.round(TIMES, 2)), confidence)
    error = np.sqrt(np.square(drawn @ components).mean(axis=1) / len(TIMES))
    beyond = (np.abs(drawn.mean(axis=1)) > critical * error).mean()
    assert beyond <= (1 - confidence) * 1.1 + 0.001
    if (share, seconds) == (1.0, 20.0):  # what it is made for is kept to the point
        assert beyond == pytest.approx(1 - confidence, rel=0.15)


def test_one_component_gives_the_quantiles_of_cauchy():
    """The mean over the size of one independent component is Cauchy: more than 1 in half of the cases."""
    independent = np.eye(2)[None]
    assert wander._exceeding(independent, 1.0) == pytest.approx(0.5, abs=1e-9)
    assert wander._critical(independent, 0.05) == pytest.approx(np.tan(np.pi * 0.475), rel=1e-4)


def test_the_interval_narrows_with_time_and_widens_with_confidence():
    values = np.random.default_rng(1).normal(0, 0.01, 48)
    widths = [wander.half_width(values, np.linspace(0, end, 48), confidence=0.99) for end in (5, 20, 60, 600)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[2]
    assert wander.half_width(values, TIMES, confidence=0.999) > wander.half_width(values, TIMES, confidence=0.9)
    assert wander.half_width(values, TIMES, confidence=0.0) == 0.0
    assert wander.half_width(values[:2], TIMES[:2], confidence=0.9) == np.inf


def measurement(candidate, reference):
    measured = Measurement(block_requests=candidate.shape[1])
    for at, (ours, theirs) in enumerate(zip(candidate, reference, strict=True)):
        measured.candidate.append(Block(ours, ours.sum() / 1e3, float(at)))
        measured.reference.append(Block(theirs, theirs.sum() / 1e3, float(at)))
    return measured


@pytest.mark.parametrize("percentile", [50, 90, 95, 99])
def test_influences_add_up_to_what_a_percentile_does(percentile):
    """The standard error that influences give is that of the percentile over repeated draws."""
    rng = np.random.default_rng(2)
    blocks = [Block(rng.lognormal(0, 0.1, 50), 1.0, 0.0) for _ in range(100)]
    _, influence = served_figures._percentile(blocks, percentile)
    drawn = np.quantile(rng.lognormal(0, 0.1, (400, 5000)), percentile / 100, axis=1)
    assert influence.std() / np.sqrt(len(blocks)) == pytest.approx(drawn.std() / drawn.mean(), rel=0.25)
    assert abs(influence.mean()) < 1e-3


def test_figures_are_those_of_all_requests_and_lie_in_their_intervals():
    rng = np.random.default_rng(3)
    candidate, reference = rng.lognormal(1.0, 0.1, (60, 10)), rng.lognormal(0.8, 0.1, (60, 10))
    measured = measurement(candidate, reference)
    ratio = served_figures.percentile_ratio(measured, 95.0, confidence=0.9)
    assert ratio.value == pytest.approx(np.quantile(candidate, 0.95) / np.quantile(reference, 0.95))
    rate = served_figures.rate_ratio(measured, confidence=0.9)
    assert rate.value == pytest.approx(reference.sum() / candidate.sum())
    assert served_figures.rate(measured, samples=4, confidence=0.9).value == pytest.approx(4e3 * 600 / candidate.sum())
    for found in (ratio, rate, served_figures.percentile_ms(measured, 50.0, confidence=0.9)):
        assert found.interval[0] < found.value < found.interval[1]
    assert served_figures.percentile_ratio(measured, 50.0, confidence=0.0).interval[0] == pytest.approx(
        np.median(candidate) / np.median(reference)
    )


def test_the_spread_of_servings_is_allowed_for_at_the_stated_confidence():
    constant = measurement(np.full((60, 4), 2.0), np.full((60, 4), 2.0))
    low, high = served_figures.percentile_ratio(constant, 50.0, confidence=0.99).interval
    assert np.log(high) == pytest.approx(2.576 * served_figures.SERVING_SPREAD, rel=1e-3)
    assert low * high == pytest.approx(1.0)
