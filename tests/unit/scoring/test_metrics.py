"""Each figure against an independent computation, and the laws it must obey."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from mmdeploy.scoring import metrics

FINITE = st.floats(-1e6, 1e6, width=32)
# Values whose squares neither vanish nor overflow, so that a naive formula in float64 is right too.
PLAIN = st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.floats(-1e3, -1e-3))


def pairs(elements=PLAIN):
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)
    return shapes.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.float64, shape, elements=elements)] * 2))


@given(pairs())
def test_cosine_is_the_textbook_formula_for_every_sample(pair):
    reference, candidate = pair
    for index, value in enumerate(metrics.per_sample_cosine(reference, candidate)):
        a, b = np.ravel(reference[index]), np.ravel(candidate[index])
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        expected = 1.0 if not a.any() and not b.any() else sum(a * b) / lengths if lengths else 0.0
        assert value == pytest.approx(expected, abs=1e-9)


@given(pairs(FINITE), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_cosine_is_bounded_symmetric_and_blind_to_scale(pair, scale, other_scale):
    a, b = pair
    value = metrics.cosine(a, b)
    assert -1.0 <= value <= 1.0
    assert metrics.cosine(b, a) == pytest.approx(value, abs=1e-9)
    assert metrics.cosine(a * scale, b * other_scale) == pytest.approx(value, abs=1e-6)
    assert metrics.cosine(a, a) == pytest.approx(1.0)


@given(pairs())
def test_sqnr_is_the_textbook_formula(pair):
    reference, candidate = pair
    signal, noise = np.square(reference).sum(), np.square(reference - candidate).sum()
    value = metrics.sqnr_db(reference, candidate)
    if noise == 0:
        assert value == math.inf
    elif signal == 0:
        assert value == -math.inf
    elif noise > 1e-20 * signal:  # closer than that, the difference itself is rounding
        assert value == pytest.approx(10 * math.log10(signal / noise), abs=1e-6)


@given(pairs(), st.sampled_from([1e-3, 0.5, 7.0, 1e4]))
def test_sqnr_does_not_depend_on_the_unit_but_sees_a_wrong_scale(pair, scale):
    reference, candidate = pair
    before = metrics.sqnr_db(reference, candidate)
    if math.isfinite(before) and before < 200:
        assert metrics.sqnr_db(reference * scale, candidate * scale) == pytest.approx(before, abs=1e-3)
    if reference.any():
        assert metrics.sqnr_db(reference, reference * 1.1) == pytest.approx(20.0, abs=1e-3)


@given(pairs())
def test_max_abs_error_is_a_metric(pair):
    a, b = pair
    assert metrics.max_abs_error(a, b) == metrics.max_abs_error(b, a) == np.abs(a - b).max()
    assert (metrics.max_abs_error(a, b) == 0) == bool((a == b).all())


def test_uniform_quantization_to_n_bits_reaches_the_textbook_sqnr():
    # A full-scale uniform signal quantized to n bits has 6.02 n dB (Bennett, 1948).
    signal = np.random.default_rng(0).uniform(-1, 1, 100_000)
    step = 2 / 2**8
    assert metrics.sqnr_db(signal, np.round(signal / step) * step) == pytest.approx(6.02 * 8, abs=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_never_looks_good(bad):
    reference, candidate = np.ones((3, 4)), np.ones((3, 4))
    candidate[1, 2] = bad
    assert not metrics.cosine(reference, candidate) >= -1
    assert not metrics.sqnr_db(reference, candidate) >= -400
    assert not metrics.max_abs_error(reference, candidate) <= 1e300
    assert metrics.per_sample_cosine(reference, candidate)[[0, 2]] == pytest.approx(1.0)


def test_integers_do_not_wrap_around():
    assert metrics.max_abs_error(np.array([0], np.uint8), np.array([255], np.uint8)) == 255
    assert metrics.cosine(np.array([200, 100], np.uint8), np.array([200, 100], np.uint8)) == pytest.approx(1)


def test_huge_and_tiny_values_keep_their_direction():
    for scale in (1e300, 1e-300):
        array = np.array([3.0, 4.0]) * scale
        assert metrics.cosine(array, array[::-1]) == pytest.approx(24 / 25)
        assert metrics.sqnr_db(array, array * 1.01) == pytest.approx(40, abs=0.01)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_binomial_tail(lost, won):
    total = lost + won
    tail = sum(math.comb(total, k) for k in range(min(lost, won) + 1)) / 2**total
    assert metrics.mcnemar_exact(lost, won) == pytest.approx(min(1.0, 2 * tail))
    assert metrics.mcnemar_exact(lost, won) == pytest.approx(metrics.mcnemar_exact(won, lost))


def test_paired_interval_matches_the_published_formula():
    # b=9, c=2, n=60, 95 %: the adjusted Wald interval computed by hand.
    p, q, n = 10 / 62, 3 / 62, 62
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / n)
    assert metrics.paired_proportion_interval(9, 2, 60, confidence=0.95) == pytest.approx(
        (p - q - half, p - q + half), abs=1e-6
    )


@given(st.integers(1, 500), st.data())
def test_paired_interval_is_antisymmetric_and_never_a_point(samples, data):
    lost = data.draw(st.integers(0, samples))
    won = data.draw(st.integers(0, samples - lost))
    low, high = metrics.paired_proportion_interval(lost, won, samples, confidence=0.95)
    assert -1 <= low < high <= 1
    mirrored = metrics.paired_proportion_interval(won, lost, samples, confidence=0.95)
    assert mirrored == pytest.approx((-high, -low))


def test_paired_interval_covers_the_true_drop():
    rng, covered, drop = np.random.default_rng(1), 0, 0.02
    for _ in range(400):
        lost, won, _rest = rng.multinomial(300, [0.04, 0.02, 0.94])
        low, high = metrics.paired_proportion_interval(lost, won, 300, confidence=0.95)
        covered += low <= drop <= high
    assert covered >= 0.92 * 400


def test_wilson_interval_by_hand():
    z, n, p = 1.959964, 50, 0.9
    centre, scale = (p + z * z / (2 * n)), 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((centre - half) / scale, (centre + half) / scale)
    assert metrics.proportion_interval(45, 50, confidence=0.95) == pytest.approx(expected, abs=1e-6)


def test_bootstrap_of_a_mean_agrees_with_the_t_interval():
    data = np.random.default_rng(2).normal(5, 2, 200)
    expected = stats.t.interval(0.95, 199, data.mean(), stats.sem(data))
    interval = metrics.bootstrap_interval(lambda drawn: data[drawn].mean(axis=1), 200, confidence=0.95, seed=0)
    assert interval == pytest.approx(expected, abs=0.06)
    assert metrics.mean_interval(data, confidence=0.95, seed=0) == pytest.approx(expected, abs=0.06)


def test_bootstrap_repeats_itself_and_survives_no_variation():
    data = np.random.default_rng(4).normal(size=30)

    def mean(drawn):
        return data[drawn].mean(axis=1)

    intervals = [metrics.bootstrap_interval(mean, 30, confidence=0.9, seed=seed) for seed in (5, 5, 6)]
    assert intervals[0] == intervals[1] != intervals[2]
    same = metrics.bootstrap_interval(lambda drawn: np.full(len(drawn), 2.0), 30, confidence=0.9, seed=0)
    assert same == (2.0, 2.0)
    assert metrics.bootstrap_interval(mean, 1, confidence=0.9, seed=0) == (-math.inf, math.inf)


def test_the_interval_of_a_mean_repeats_itself_and_survives_no_variation():
    data = np.random.default_rng(4).lognormal(0, 1, 30)
    intervals = [metrics.mean_interval(data, confidence=0.9, seed=seed) for seed in (5, 5, 6)]
    assert intervals[0] == intervals[1] != intervals[2]
    assert metrics.mean_interval(np.full(30, 2.0), confidence=0.9, seed=0) == (2.0, 2.0)
    assert metrics.mean_interval(data[:1], confidence=0.9, seed=0) == (-math.inf, math.inf)
    assert all(map(math.isfinite, metrics.mean_interval(np.eye(50)[0], confidence=0.95, seed=0)))


@pytest.mark.parametrize(("sigma", "count"), [(1.0, 200), (1.5, 200), (1.5, 500)])
def test_the_interval_of_a_mean_of_heavy_tailed_errors_covers_what_it_says(sigma, count):
    """As benchmarks/interval_coverage.py does at length; the BCa bootstrap covers 86 to 92 % of these."""
    rng, truth, trials = np.random.default_rng(6), math.exp(sigma**2 / 2), 150
    intervals = [
        metrics.mean_interval(rng.lognormal(0, sigma, count), confidence=0.95, seed=trial, resamples=300)
        for trial in range(trials)
    ]
    assert sum(low <= truth <= high for low, high in intervals) >= 0.92 * trials


def test_percentile_ratio_is_not_widened_by_drift_that_hits_both():
    rng = np.random.default_rng(5)
    drift = np.exp(np.cumsum(rng.normal(0, 0.2, 60)))[:, None]  # the machine wanders by a factor of several
    reference, candidate = (rng.lognormal(0, 0.05, (60, 20)) * drift for _ in range(2))
    low, high = metrics.percentile_ratio_interval(candidate * 1.2, reference, 50, confidence=0.95, seed=0)
    assert 1.1 < low < 1.2 < high < 1.3
    alone = metrics.percentile_interval(candidate, 50, confidence=0.95, seed=0)
    assert alone[1] / alone[0] > high / low


def test_percentile_ratio_interval_covers_the_truth():
    rng, covered = np.random.default_rng(6), 0
    for seed in range(60):
        rounds = rng.lognormal(0, 0.1, (24, 1))  # requests of a round depend on each other
        reference, candidate = (rounds * rng.lognormal(0, 0.1, (24, 20)) for _ in range(2))
        low, high = metrics.percentile_ratio_interval(candidate, reference, 90, confidence=0.95, seed=seed)
        covered += low <= 1.0 <= high
    assert covered >= 52  # of 60; 57 expected


def test_percentile_is_the_one_that_was_asked_for():
    latencies = np.tile(np.linspace(1.0, 2.0, 101), (10, 1))
    assert metrics.percentile_interval(latencies, 95, confidence=0.95, seed=0) == pytest.approx((1.95, 1.95))


def test_mlperf_sample_counts():
    assert metrics.required_requests(99, confidence=0.99) == 459
    assert metrics.required_requests(99, confidence=0.99, over_limit=1) == 662


@settings(max_examples=50)
@given(st.floats(50, 99.5), st.floats(0.8, 0.99), st.integers(0, 3))
def test_required_requests_is_the_smallest_that_keeps_the_promise(percentile, confidence, over):
    count = metrics.required_requests(percentile, confidence=confidence, over_limit=over)
    doubt = stats.binom.cdf(over, [count, count - 1], 1 - percentile / 100)
    assert doubt[0] <= 1 - confidence + 1e-9
    assert count == over + 1 or doubt[1] > 1 - confidence - 1e-9
