"""A candidate's score against the original's on the same samples: what was lost, and how sure that is."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import StepError
from mmdeploy.scoring import metrics
from mmdeploy.scoring.metrics import FloatArray, Interval
from mmdeploy.scoring.scored import Scored

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_RESAMPLES = 1000
#: A metric that is computed anew for each resample is given so long; what was drawn by then makes the interval.
_SECONDS = 60.0
#: Fewest resamples that an interval is made of.
_FEWEST = 40
_DRAWS_AT_ONCE = 10
#: Key in the details of a gate.
SMALLEST_EFFECT = "smallest_effect"
#: How often a change of that size is seen.
POWER = 0.8


@dataclass(frozen=True)
class Resamples:
    """Scores of the same resamples of the units.

    Attributes:
        candidate: One a resample.
        drop: What was lost, one a resample.
        failed: Resamples that the metric could not be computed on, such as those without a class.
    """

    candidate: FloatArray
    drop: FloatArray
    failed: int


@dataclass(frozen=True)
class Comparison:
    """Candidate and original, scored on the same samples by one metric.

    Attributes:
        candidate: The candidate's score.
        original: The original's.
        larger_is_better: Of the metric.
        confidence: Of the intervals.
        seed: Of resampling.
        clock: Bounds the time of resampling.
    """

    candidate: Scored
    original: Scored
    larger_is_better: bool
    confidence: float
    seed: int
    clock: Callable[[], float] = time.monotonic

    @property
    def counts(self) -> bool:
        """Whether the metric counts right answers."""
        pairs = (self.original.per_unit, self.candidate.per_unit)
        return self.larger_is_better and all(one is not None for one in pairs) and are_counts(*pairs)

    @property
    def drop(self) -> float:
        """The loss of quality, in the metric's unit; positive is worse."""
        if self.counts:
            lost, won = self.discordant
            return (lost - won) / self.original.units
        loss = self.original.score - self.candidate.score
        return loss if self.larger_is_better else -loss

    @property
    def discordant(self) -> tuple[int, int]:
        """How many units only the original, and only the candidate, answered correctly."""
        original, candidate = self.original.per_unit, self.candidate.per_unit
        if original is None or candidate is None:
            return (0, 0)
        return (int((original > candidate).sum()), int((candidate > original).sum()))

    @functools.cached_property
    def drop_interval(self) -> Interval | None:
        """The interval of the drop, from the paired comparison; None where resampling could not tell."""
        original, candidate = self.original.per_unit, self.candidate.per_unit
        if original is not None and candidate is not None:
            return drop_interval(
                original, candidate, larger_is_better=self.larger_is_better, confidence=self.confidence, seed=self.seed
            )
        return self._of(self.resamples.drop)

    def smallest_drop(self, limit: float) -> float | None:
        """Return the smallest true drop whose estimate is above a limit in 19 of 20 sets of samples such as these.

        A smaller one may well pass where estimates decide. None where the interval is not known.
        """
        if self.drop_interval is None or not all(map(math.isfinite, self.drop_interval)):
            return None
        low, high = self.drop_interval
        spread = (high - low) / 2.0 / NormalDist().inv_cdf(0.5 + self.confidence / 2.0)
        once_in_20, found = NormalDist().inv_cdf(0.95), limit
        for _ in range(20 if self.counts else 1):  # of right answers, a larger drop has a larger spread
            least = math.sqrt(max(0.0, found - found**2) / self.original.units) if self.counts else 0.0
            found = limit + once_in_20 * max(spread, least)
        return found

    @property
    def smallest_effect(self) -> float | None:
        """The smallest true change that these samples show; None where the interval is not known."""
        ends = self.drop_interval
        return None if ends is None else smallest_effect(ends, self.confidence, units=self._units_of_counts)

    @property
    def _units_of_counts(self) -> int | None:
        return self.original.units if self.counts else None

    @functools.cached_property
    def score_interval(self) -> Interval | None:
        """The interval of the candidate's score; None where resampling could not tell."""
        scores = self.candidate.per_unit
        if scores is None or self.original.per_unit is None:
            return self._of(self.resamples.candidate)
        if self.counts:
            return metrics.proportion_interval(int(scores.sum()), len(scores), confidence=self.confidence)
        return metrics.mean_interval(scores, confidence=self.confidence, seed=self.seed)

    @functools.cached_property
    def resamples(self) -> Resamples:
        """Both scores on the same resamples, as many as there is time for."""
        import numpy as np

        random, units = np.random.default_rng(self.seed), self.original.units
        deadline = self.clock() + _SECONDS
        failed = 0
        pairs: list[FloatArray] = []
        for start in range(0, _RESAMPLES, _DRAWS_AT_ONCE):
            if start and self.clock() >= deadline:
                break
            draws = random.integers(0, units, size=(_DRAWS_AT_ONCE, units))
            drawn = _both(self.candidate.of, self.original.of, draws)
            usable = np.isfinite(drawn).all(axis=1)
            failed += int((~usable).sum())
            pairs.append(drawn[usable])
        scores = np.concatenate(pairs)
        lost = np.asarray(scores[:, 1] - scores[:, 0], dtype=np.float64)
        return Resamples(scores[:, 0], lost if self.larger_is_better else -lost, failed)

    def _of(self, drawn: FloatArray) -> Interval | None:
        if len(drawn) < _FEWEST or self.resamples.failed > len(drawn) // 4:
            return None
        return metrics.percentile_interval_of(drawn, self.original.units, confidence=self.confidence)

    def to_json(self) -> dict[str, Any]:
        """Return the figures for reports and plots."""
        figures: dict[str, Any] = {
            "samples": self.original.units,
            "scores": {"original": self.original.score, "reference": None, "candidate": self.candidate.score},
            "drop": self.drop,
            "score_interval": _listed(self.score_interval),
            "drop_interval": _listed(self.drop_interval),
            "confidence": self.confidence,
            SMALLEST_EFFECT: self.smallest_effect,
        }
        if self.counts:
            lost, won = self.discordant
            figures |= {"lost": lost, "won": won, "mcnemar_p_value": metrics.mcnemar_exact(lost, won)}
        elif self.original.per_unit is None:
            figures |= {"resamples": len(self.resamples.drop), "resamples_failed": self.resamples.failed}
        return figures


def drop_interval(
    original: FloatArray, candidate: FloatArray, *, larger_is_better: bool, confidence: float, seed: int
) -> Interval:
    """Return the interval of what is lost in a mean over units, from the paired comparison.

    Right and wrong answers have Bonett and Price's interval, which does not collapse where none changed sides; other
    scores that of `mmdeploy.scoring.metrics.mean_interval`.
    """
    lost = original - candidate if larger_is_better else candidate - original
    if are_counts(original, candidate):
        return metrics.paired_proportion_interval(
            int((lost > 0).sum()), int((lost < 0).sum()), len(lost), confidence=confidence
        )
    return metrics.mean_interval(lost, confidence=confidence, seed=seed)


def smallest_effect(ends: Interval, confidence: float, *, units: int | None = None) -> float | None:
    """Return the smallest true change that shows: 0 is outside of its interval in 4 of 5 sets of samples such as these.

    Args:
        ends: An interval of the change, as wide as these samples make it.
        confidence: Of the interval.
        units: How many right and wrong answers there are, where the metric counts them: a change of their number by
            itself scatters, however alike both are on these samples.

    Returns:
        The change in the metric's unit; None where the interval is not known.
    """
    if not all(map(math.isfinite, ends)) or not 0.0 < confidence < 1.0:
        return None
    critical = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    spread, wanted = (ends[1] - ends[0]) / 2.0 / critical, critical + NormalDist().inv_cdf(POWER)
    found = wanted * spread
    if not units:
        return found
    for _ in range(40):  # of right answers, a larger change has a larger spread
        found = wanted * max(spread, math.sqrt(max(0.0, found - found**2) / units))
    return min(found, 1.0)


def are_counts(*scores: FloatArray | None) -> bool:
    """Say whether scores are 1 for right and 0 for wrong answers."""
    import numpy as np

    return all(one is not None and bool(np.isin(one, (0.0, 1.0)).all()) for one in scores)


def _both(
    candidate: Callable[[npt.NDArray[np.intp]], FloatArray],
    original: Callable[[npt.NDArray[np.intp]], FloatArray],
    draws: npt.NDArray[np.intp],
) -> FloatArray:
    """Score draws on both sides, shape [draws, 2]; NaN where the metric refuses a draw."""
    import numpy as np

    try:
        return np.stack([candidate(draws), original(draws)], axis=1)
    except StepError:
        if len(draws) == 1:
            return np.full((1, 2), math.nan)
        return np.concatenate([_both(candidate, original, draws[at : at + 1]) for at in range(len(draws))])


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None or not all(map(math.isfinite, interval)) else list(interval)
