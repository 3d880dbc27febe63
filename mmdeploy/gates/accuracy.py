"""Accuracy: does the served candidate answer the user's own labelled samples as well as the PyTorch original?

What it does: scores the served ensemble and the original on the same evaluation samples with torchmetrics, and
compares the candidate's score with ``min`` (``max`` for errors) and its loss against the original with ``max_drop``
and ``max_relative_drop``. A drop is a loss of quality: a lower score, or a higher error.
How it decides: by the point estimate (``rule: estimate``, the default). The same samples and the same model give
the same figures, so the verdict is repeatable; it is a statement about *these* samples. The confidence interval,
from the paired comparison, says what other samples of the kind could have shown, and a note says so when it
includes the limit. With ``rule: interval`` the whole interval must keep the limit (a non-inferiority test): too few
samples then make the gate ``inconclusive``.
When to choose it: always, where labels exist. Metrics: ``top1`` (also called ``accuracy``), ``top5``, ``f1_macro``,
``auroc`` (one against the rest, mean over the classes that occur) for class scores of shape [samples, classes];
``mse``, ``mae`` for regression.
What it needs: labels, and at least one limit. With several ensemble outputs the first is scored.
Intervals: for ``top1`` and ``top5`` Wilson's (score) and Bonett and Price's (paired drop), and McNemar's exact
p-value; for errors the BCa, for the others the percentile bootstrap over samples. The interval of a relative drop
takes the original's score as given.
Limits: a limit finer than one sample (1 / samples) asks for no loss at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import Array, Check, Deployment, Evidence, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.gates import advising, limits
from mmdeploy.scoring import ask, metrics, scores
from mmdeploy.scoring.metrics import FloatArray

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REQUIRES: tuple[str, ...] = ("scipy", "torch", "torchmetrics")
#: Lets a build refuse unlabelled evaluation data before anything is served.
NEEDS_LABELS = True

_RESAMPLES = 1000
#: Scores are sums of floats: a drop of 0.01 must keep a limit of 0.01.
_SLACK = 1e-6


class Options(MethodOptions):
    """Limits of the accuracy gate; at least one.

    Attributes:
        metric: What is scored.
        min: Lowest score of the candidate (not for errors).
        max: Highest error of the candidate (only for errors).
        max_drop: Largest loss against the original, in the metric's unit.
        max_relative_drop: Largest loss as a share of the original's score.
        confidence: Of the intervals.
        rule: Decide by the point estimate or by the whole interval.
    """

    method: Literal["accuracy"] = "accuracy"
    metric: scores.MetricName
    min: float | None = None
    max: float | None = None
    max_drop: float | None = Field(default=None, ge=0.0)
    max_relative_drop: float | None = Field(default=None, ge=0.0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    rule: Literal["estimate", "interval"] = "estimate"

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Self:
        wrong, right = ("min", "max") if self.metric in scores.ERRORS else ("max", "min")
        if getattr(self, wrong) is not None:
            raise ValueError(f"{wrong} makes no sense for {self.metric}: use {right}")
        if all(limit is None for limit in (self.min, self.max, self.max_drop, self.max_relative_drop)):
            raise ValueError(f"give at least one limit: {right}, max_drop or max_relative_drop")
        return self


def check(options: Options, evidence: Evidence) -> GateResult:
    """Score the candidate and the original; answers that are refused, misshapen or not finite fail.

    Raises:
        DataError: If there are no samples, no labels, or labels that the metric cannot take.
    """
    import numpy as np

    ask.sample_count(evidence)
    if evidence.labels is None:
        raise DataError(
            f"the accuracy gate ({options.metric}) needs labels, but the evaluation data has none",
            hint="let the callable that data.evaluation names give a label with each sample",
        )
    output = evidence.ensemble_outputs[0]
    original, labels = evidence.original[output], np.asarray(evidence.labels)
    scores.check_labels(options.metric, original, labels)
    answered = _answers(evidence.candidate, "candidate", output, evidence)
    if isinstance(answered, str):
        name, limit = options.metric, _all_limits(options)
        return GateResult("accuracy", (Check(name, None, limit, Verdict.FAIL, note=answered),))
    comparison = _Comparison(
        scores.scored(options.metric, answered, labels),
        scores.scored(options.metric, original, labels),
        lower_is_better=options.metric in scores.ERRORS, counts=options.metric in scores.GUESSES_BY_METRIC,
        samples=len(labels), confidence=options.confidence, seed=evidence.seed,
    )  # fmt: skip
    details = comparison.to_json() | {"metric": options.metric, "rule": options.rule}
    served_reference = _answers(evidence.reference, "reference", output, evidence)
    if isinstance(served_reference, str):
        details["reference_problem"] = served_reference
    else:
        details["scores"]["reference"] = scores.scored(options.metric, served_reference, labels).score
    return GateResult("accuracy", tuple(_checks(comparison, options)), details)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what loses less, or how to decide."""
    return advising.advised(result, failed=advising.LOSE_LESS, undecided=advising.MORE_SAMPLES)


def _answers(deployment: Deployment, side: str, output: str, evidence: Evidence) -> Array | str:
    """Return what a deployment answers, or what is wrong with it."""
    import numpy as np

    expected = evidence.original[output]
    try:
        answered = ask.answers(
            deployment, None, evidence.feeds, max_batch_size=evidence.max_batch_size,
            progress=evidence.progress, what=f"accuracy: {side}",
        ).get(output)  # fmt: skip
    except InferenceError as error:
        return f"the {side} did not answer: {error.message}"
    if answered is None:
        return f"the {side}'s answer lacks the output {output!r}"
    if answered.shape != expected.shape:
        return f"the {side} answers {list(answered.shape[1:])} a sample, the original {list(expected.shape[1:])}"
    broken = int((~np.isfinite(answered.astype(np.float64))).reshape(len(answered), -1).any(axis=1).sum())
    return f"{broken} of the {side}'s {len(answered)} answers hold NaN or Inf" if broken else answered


@dataclass(frozen=True)
class _Comparison:
    """Candidate against original on the same samples; ``counts`` says the metric counts correct answers."""

    candidate: scores.Scored
    original: scores.Scored
    lower_is_better: bool
    counts: bool
    samples: int
    confidence: float
    seed: int

    @property
    def drop(self) -> float:
        """The loss of quality, in the metric's unit."""
        if self.counts:
            lost, won = self.discordant
            return (lost - won) / self.samples
        return self._sign * (self.original.score - self.candidate.score)

    @property
    def discordant(self) -> tuple[int, int]:
        """How many samples only the original, and only the candidate, answered correctly."""
        original, candidate = self.original.per_sample, self.candidate.per_sample
        if original is None or candidate is None:
            return (0, 0)
        return (int((original > candidate).sum()), int((candidate > original).sum()))

    @property
    def _sign(self) -> int:
        return -1 if self.lower_is_better else 1

    @functools.cached_property
    def drop_interval(self) -> metrics.Interval:
        """The interval of the drop, from the paired comparison."""
        if self.counts:
            lost, won = self.discordant
            return metrics.paired_proportion_interval(lost, won, self.samples, confidence=self.confidence)
        return self._bootstrap(lambda drawn: self._sign * (self.original.of(drawn) - self.candidate.of(drawn)))

    @functools.cached_property
    def score_interval(self) -> metrics.Interval:
        """The interval of the candidate's score."""
        if self.counts and self.candidate.per_sample is not None:
            right = int(self.candidate.per_sample.sum())
            return metrics.proportion_interval(right, self.samples, confidence=self.confidence)
        return self._bootstrap(self.candidate.of)

    def _bootstrap(self, statistic: Callable[[npt.NDArray[np.intp]], FloatArray]) -> metrics.Interval:
        method: Literal["BCa", "percentile"] = "percentile" if self.candidate.per_sample is None else "BCa"
        return metrics.bootstrap_interval(
            statistic,
            self.samples,
            confidence=self.confidence,
            seed=self.seed,
            resamples=_RESAMPLES,
            method=method,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures for reports and plots."""
        figures: dict[str, Any] = {
            "samples": self.samples,
            "scores": {"original": self.original.score, "reference": None, "candidate": self.candidate.score},
            "drop": self.drop,
            "score_interval": list(self.score_interval),
            "drop_interval": list(self.drop_interval),
            "confidence": self.confidence,
        }
        if self.counts:
            lost, won = self.discordant
            figures |= {"lost": lost, "won": won, "mcnemar_p_value": metrics.mcnemar_exact(lost, won)}
        return figures


def _checks(comparison: _Comparison, options: Options) -> Iterator[Check]:
    metric, drop = options.metric, comparison.drop
    if options.min is not None:
        yield _judged(metric, comparison.candidate.score, comparison.score_interval, options, at_least=options.min)
    if options.max is not None:
        yield _judged(metric, comparison.candidate.score, comparison.score_interval, options, at_most=options.max)
    if options.max_drop is None and options.max_relative_drop is None:
        return
    interval = comparison.drop_interval
    if options.max_drop is not None:
        yield _judged(f"{metric} drop", drop, interval, options, at_most=options.max_drop)
    if options.max_relative_drop is not None:
        name, scale = f"{metric} relative drop", abs(comparison.original.score)
        if scale == 0.0:
            limit, note = limits.in_words(at_most=options.max_relative_drop), "the original scores 0"
            yield Check(name, None, limit, Verdict.INCONCLUSIVE, note=note)
        else:
            relative = (interval[0] / scale, interval[1] / scale)
            yield _judged(name, drop / scale, relative, options, at_most=options.max_relative_drop)


def _judged(name: str, value: float, interval: metrics.Interval, options: Options, **limit: float) -> Check:
    """Judge a figure by the rule of the options; ``limit`` is ``at_least`` or ``at_most``."""
    import numpy as np

    by_interval = limits.decided(interval, **limit)
    note = ""
    if options.rule == "interval":
        verdict = by_interval
        if verdict is Verdict.INCONCLUSIVE:
            note = "the interval includes the limit: only more samples can decide"
    else:
        verdict = limits.within(value, **limit, slack=_SLACK)
        if by_interval is Verdict.INCONCLUSIVE:
            note = "the interval includes the limit: other samples could have decided otherwise"
    finite = all(np.isfinite(interval))
    words = limits.in_words(at_least=limit.get("at_least"), at_most=limit.get("at_most"))
    return Check(name, value, words, verdict, interval if finite else None, note=note)


def _all_limits(options: Options) -> str:
    limit_by_name = {
        ">=": options.min, "<=": options.max, "drop <=": options.max_drop,
        "relative drop <=": options.max_relative_drop,
    }  # fmt: skip
    return ", ".join(f"{name} {limit:g}" for name, limit in limit_by_name.items() if limit is not None)
