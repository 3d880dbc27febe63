"""How close two answers are, and how sure a comparison is: the figures that gates judge.

Everything is computed in float64. ``reference`` comes first and is what the figure is relative to. A function
named ``per_sample_*`` treats axis 0 as samples and gives one figure a sample; the others take the arrays as
one long vector. Values that are not finite give NaN (or an infinite error), which no limit accepts.

Intervals are two-sided. Resampling is seeded: the same data and seed give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


#: Scores are sums of floats: a drop of 0.01 must keep a limit of 0.01.
SLACK = 1e-6
#: SQNR of a sample that did not change among samples that did: beyond what FP32's 24 bits can tell apart.
UNCHANGED_DB = 150.0

Array: TypeAlias = "npt.NDArray[Any]"
FloatArray: TypeAlias = "npt.NDArray[np.float64]"
Interval = tuple[float, float]


def per_sample_cosine(reference: Array, candidate: Array) -> FloatArray:
    """Return the cosine similarity of each sample, in [-1, 1].

    Two zero vectors are equal and give 1; a zero vector against any other gives 0.

    Args:
        reference: Shape [samples, ...].
        candidate: The same shape.
    """
    import numpy as np

    ref, cand = rows_of(reference), rows_of(candidate)
    ref_unit, ref_log = unit_rows(ref)
    cand_unit, cand_log = unit_rows(cand)
    similarity = np.clip(np.einsum("ij,ij->i", ref_unit, cand_unit), -1.0, 1.0)
    both_zero = np.isneginf(ref_log) & np.isneginf(cand_log)
    return np.where(both_zero, 1.0, similarity)


def per_sample_sqnr_db(reference: Array, candidate: Array) -> FloatArray:
    """Return each sample's signal to quantization noise ratio, 10·log10(Σ ref² / Σ (ref − cand)²), in dB.

    Equal samples give ``inf``; a reference of zeros against anything else gives ``-inf``. Six dB are one bit.

    Args:
        reference: Shape [samples, ...].
        candidate: The same shape.
    """
    import numpy as np

    ref, cand = rows_of(reference), rows_of(candidate)
    with np.errstate(invalid="ignore", over="ignore"):
        noise = ref - cand
    _, ref_log = unit_rows(ref)
    _, noise_log = unit_rows(noise)
    with np.errstate(invalid="ignore"):
        ratio = 20.0 * (ref_log - noise_log)
    return np.where(np.isneginf(noise_log), np.inf, ratio)


def per_sample_max_abs_error(reference: Array, candidate: Array) -> FloatArray:
    """Return the largest absolute difference in each sample, in the tensor's own unit.

    Args:
        reference: Shape [samples, ...].
        candidate: The same shape.
    """
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.abs(rows_of(reference) - rows_of(candidate)).max(axis=1), dtype=np.float64)


def cosine(reference: Array, candidate: Array) -> float:
    """Return the cosine similarity of two arrays taken as vectors, in [-1, 1]."""
    return float(per_sample_cosine(_one_row(reference), _one_row(candidate))[0])


def sqnr_db(reference: Array, candidate: Array) -> float:
    """Return the signal to quantization noise ratio of the whole arrays in dB.

    Over a batch this is mean signal power over mean noise power: samples with a strong signal weigh more.
    """
    return float(per_sample_sqnr_db(_one_row(reference), _one_row(candidate))[0])


def max_abs_error(reference: Array, candidate: Array) -> float:
    """Return the largest absolute difference, in the tensor's own unit."""
    return float(per_sample_max_abs_error(_one_row(reference), _one_row(candidate))[0])


def mcnemar_exact(only_reference: int, only_candidate: int) -> float:
    """Return the two-sided exact p-value of McNemar's test.

    It asks whether two classifiers, judged on the same samples, err equally often: under that hypothesis the
    samples on which exactly one is right are fair coin tosses. (Q. McNemar, Psychometrika 12, 1947; exact
    form.)

    Args:
        only_reference: Samples that only the reference answered correctly.
        only_candidate: Samples that only the candidate answered correctly.
    """
    from scipy.stats import binomtest

    if only_reference + only_candidate == 0:
        return 1.0
    return float(binomtest(only_reference, only_reference + only_candidate, 0.5).pvalue)


def paired_proportion_interval(
    only_reference: int, only_candidate: int, samples: int, *, confidence: float
) -> Interval:
    """Return the interval of a drop in accuracy (reference minus candidate) on the same samples.

    The adjusted Wald interval of D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data", J. Educational and Behavioral Statistics 37
    (2012). Unlike a bootstrap it does not collapse to a point when no sample changed sides.

    Args:
        only_reference: Samples that only the reference answered correctly.
        only_candidate: Samples that only the candidate answered correctly.
        samples: All samples.
        confidence: Such as 0.95.
    """
    lost = (only_reference + 1) / (samples + 2)
    won = (only_candidate + 1) / (samples + 2)
    half = _z(confidence) * math.sqrt((lost + won - (lost - won) ** 2) / (samples + 2))
    return (max(-1.0, lost - won - half), min(1.0, lost - won + half))


def proportion_interval(successes: int, samples: int, *, confidence: float) -> Interval:
    """Return Wilson's score interval of a proportion (E. B. Wilson, JASA 22, 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, samples).proportion_ci(confidence_level=confidence, method="wilson")
    return (float(interval.low), float(interval.high))


def bootstrap_interval(
    statistic: Callable[[npt.NDArray[np.intp]], FloatArray],
    units: int,
    *,
    confidence: float,
    seed: int,
    resamples: int = 2000,
) -> Interval:
    """Return the percentile interval (expanded, see `_expanded`) of a statistic, from resampling whole units.

    A unit is what was drawn independently: a sample that both models answered (a *paired* bootstrap), or a
    round in which both deployments were measured side by side (a *block* bootstrap, which leaves the
    dependence within a round, and so drift of the machine, intact).

    Args:
        statistic: Takes the drawn units' indices, shape [draws, units], and returns one figure a draw.
        units: How many units there are.
        confidence: Such as 0.95.
        seed: Of the resampling.
        resamples: How many times to draw; the tails beyond ``confidence`` want at least a few resamples each.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if units == 1:  # SciPy wants two; one unit says nothing about spread
        return (-math.inf, math.inf)
    drawn = bootstrap(
        (np.arange(units),), lambda indices, axis: statistic(np.atleast_2d(indices)), vectorized=True,
        n_resamples=resamples, batch=_DRAWS_AT_ONCE, confidence_level=_expanded(confidence, units), method="percentile",
        random_state=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = drawn.confidence_interval
    return (float(np.ravel(low)[0]), float(np.ravel(high)[0]))


def mean_interval(values: FloatArray, *, confidence: float, seed: int, resamples: int = 1000) -> Interval:
    """Return the interval of a mean, also of values of which a few hold most of the spread.

    The wider end, on each side, of Student's t and of the bootstrap-t (B. Efron, "Nonparametric standard errors and
    confidence intervals", Canadian J. Statistics 9, 1981), which sees skew; both widened by what the standard error of
    heavy tails is unsure of, as degrees of freedom 2n / (kurtosis - 1) (F. E. Satterthwaite, Biometrics Bulletin 2,
    1946). `benchmarks/interval_coverage.py` shows what it covers, and where no interval of so few samples could.

    Args:
        values: One a unit.
        confidence: Such as 0.95.
        seed: Of the resampling.
        resamples: How many times to draw.
    """
    import numpy as np
    from scipy.stats import t

    count, mean = len(values), float(values.mean())
    if count == 1:
        return (-math.inf, math.inf)
    error = float(values.std(ddof=1)) / math.sqrt(count)
    if error == 0.0:
        return (mean, mean)
    beyond, random = 0.5 + confidence / 2.0, np.random.default_rng(seed)
    drawn = list[FloatArray]()
    for _ in range(0, resamples, _DRAWS_AT_ONCE):
        samples = values[random.integers(0, count, (_DRAWS_AT_ONCE, count))]
        errors = samples.std(axis=1, ddof=1) / math.sqrt(count)
        drawn.append((samples.mean(axis=1) - mean)[errors > 0] / errors[errors > 0])
    studentized, plain = np.concatenate(drawn), float(t.ppf(beyond, count - 1))
    low, high = np.quantile(studentized, [1.0 - beyond, beyond]) if len(studentized) else (-plain, plain)
    centred = values - mean
    kurtosis = float((centred**4).mean() / (centred**2).mean() ** 2)
    degrees = min(count - 1.0, max(2.0, 2.0 * count / max(kurtosis - 1.0, 1e-9)))
    wider = float(t.ppf(beyond, degrees)) / plain * error
    return (mean - max(high, plain) * wider, mean - min(low, -plain) * wider)


def percentile_interval_of(drawn: FloatArray, units: int, *, confidence: float) -> Interval:
    """Return the percentile interval (expanded, see `_expanded`) of resamples of so many units."""
    import numpy as np

    if units == 1:
        return (-math.inf, math.inf)
    beyond = (1.0 - _expanded(confidence, units)) / 2.0
    low, high = np.quantile(drawn, [beyond, 1.0 - beyond])
    return (float(low), float(high))


def percentile_ratio_interval(
    candidate: FloatArray, reference: FloatArray, percentile: float, *, confidence: float, seed: int
) -> Interval:
    """Return the interval of percentile(candidate) / percentile(reference) over interleaved rounds.

    Rounds are resampled whole and for both sides together, so that a slow minute of the machine, which slows
    both, does not widen the interval, and requests within a round need not be independent.

    Args:
        candidate: Latencies, shape [rounds, requests of a round].
        reference: Latencies measured in the same rounds, same shape.
        percentile: In (0, 100).
        confidence: Such as 0.95.
        seed: Of the resampling.
    """

    def ratio(rounds: npt.NDArray[np.intp]) -> FloatArray:
        return _pooled_percentile(candidate, rounds, percentile) / _pooled_percentile(reference, rounds, percentile)

    return bootstrap_interval(ratio, len(candidate), confidence=confidence, seed=seed, resamples=_TAIL_RESAMPLES)


def median_ratio_interval(candidate: FloatArray, reference: FloatArray, *, confidence: float, seed: int) -> Interval:
    """Return the interval of the median of candidate / reference, each pair measured in the same round.

    Args:
        candidate: Times, shape [units, rounds of a unit]; units are resampled whole.
        reference: Those of the other one in the same rounds, same shape.
        confidence: Such as 0.95.
        seed: Of the resampling.
    """
    ratios = candidate / reference

    def median(units: npt.NDArray[np.intp]) -> FloatArray:
        return _pooled_percentile(ratios, units, 50.0)

    return bootstrap_interval(median, len(ratios), confidence=confidence, seed=seed, resamples=_TAIL_RESAMPLES)


def percentile_interval(latencies: FloatArray, percentile: float, *, confidence: float, seed: int) -> Interval:
    """Return the interval of a percentile; shape [rounds, requests of a round], rounds resampled whole."""

    def value(rounds: npt.NDArray[np.intp]) -> FloatArray:
        return _pooled_percentile(latencies, rounds, percentile)

    return bootstrap_interval(value, len(latencies), confidence=confidence, seed=seed, resamples=_TAIL_RESAMPLES)


def required_requests(percentile: float, *, confidence: float, over_limit: int = 0) -> int:
    """Return how many requests a claim about a percentile needs.

    The claim "the percentile is below the limit" may be made with ``confidence`` when, of that many
    independent requests, at most ``over_limit`` were over it. (The rule of MLPerf Inference: p99 at 0.99
    needs 459 requests with none over the limit, or 662 with one.)

    Args:
        percentile: In (0, 100).
        confidence: In (0, 1).
        over_limit: Requests that may be over the limit.
    """
    within = percentile / 100.0

    def doubt(requests: int) -> float:
        return sum(
            math.comb(requests, over) * (1.0 - within) ** over * within ** (requests - over)
            for over in range(over_limit + 1)
        )

    low, high = over_limit, over_limit + 1
    while doubt(high) > 1.0 - confidence:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if doubt(middle) > 1.0 - confidence else (low, middle)
    return high


_TAIL_RESAMPLES = 4000
_DRAWS_AT_ONCE = 100


def _expanded(confidence: float, units: int) -> float:
    """Return the level at which a percentile interval of few units really has the confidence wanted.

    The expanded percentile interval of T. Hesterberg, "What Teachers Should Know About the Bootstrap", The
    American Statistician 69 (2015), section 4: a plain one is too narrow, as a t interval with normal
    quantiles would be.
    """
    from scipy.stats import norm, t

    quantile = math.sqrt(units / (units - 1)) * t.ppf(0.5 + confidence / 2.0, units - 1)
    return float(1.0 - 2.0 * norm.cdf(-quantile))


def _pooled_percentile(latencies: FloatArray, rounds: npt.NDArray[np.intp], percentile: float) -> FloatArray:
    """Return one percentile a draw, over all requests of its rounds; ``rounds`` is [draws, rounds]."""
    import numpy as np

    return np.asarray(np.percentile(latencies[rounds].reshape(len(rounds), -1), percentile, axis=1))


def _z(confidence: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + confidence / 2.0)


def rows_of(array: Array) -> FloatArray:
    """Return one row of numbers a sample."""
    import numpy as np

    samples = np.asarray(array)
    return samples.reshape(len(samples), -1).astype(np.float64)


def _one_row(array: Array) -> Array:
    import numpy as np

    return np.asarray(array).reshape(1, -1)


def unit_rows(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return rows scaled to length 1, and log10 of their lengths, without overflow or underflow."""
    import numpy as np

    largest = np.abs(rows).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(largest > 0, rows / np.where(largest > 0, largest, 1.0), rows)
        length = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
        unit = np.where(length > 0, scaled / np.where(length > 0, length, 1.0), scaled)
        return unit, (np.log10(largest) + np.log10(length))[:, 0]
