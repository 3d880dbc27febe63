"""Early exit: how many samples leave the served cascade early, and by the same rule as in PyTorch?

What it does: asks the served candidate for every evaluation sample and counts those that left early, as each answer
says itself (the output ``left_early``). It also counts the samples that went another way than the PyTorch model sends
them by the same condition: INT8 moves a value across a threshold now and then, and a rule that is served wrongly sends
many astray.
How it decides: by the share itself (``rule: estimate``, the default) or by its whole interval (``rule: interval``,
Wilson's).
When to choose it: with every cascade. What the early answers cost is for ``accuracy``, what they save for ``latency``
(a low percentile for those that leave, a high one for those that wait) and ``throughput``: all of them compare with the
plain ensemble, in which every sample runs the whole model.
What it needs: evaluation samples like those that clients send. No labels.
Limits: the share holds for samples like these; harder ones leave later.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmdeploy.core.contracts import Array, Check, Evidence, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.gates import advising, answers, limits
from mmdeploy.scoring import ask
from mmdeploy.scoring.metrics import proportion_interval

REQUIRES: tuple[str, ...] = ("scipy",)
NEEDS_LABELS = False

_LEFT, _REROUTED = "left early", "other way than in PyTorch"


class Options(MethodOptions):
    """Limits of the early_exit gate.

    Attributes:
        min_left_early: Smallest share of samples that leave early.
        max_left_early: Largest share of samples that leave early.
        max_rerouted: Largest share of samples that go another way than the PyTorch model sends them.
        confidence: Of the intervals.
        rule: Decide by the share itself or by its whole interval.
    """

    method: Literal["early_exit"] = "early_exit"
    min_left_early: float = Field(gt=0.0, le=1.0)
    max_left_early: float | None = Field(default=None, gt=0.0, le=1.0)
    max_rerouted: float = Field(default=0.1, ge=0.0, lt=1.0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    rule: Literal["estimate", "interval"] = "estimate"


def check(options: Options, evidence: Evidence) -> GateResult:
    """Count who left early; a refusal by the candidate fails.

    Raises:
        DataError: If there are no evaluation samples, or no cascade.
    """
    import numpy as np

    count, cascade = ask.sample_count(evidence), evidence.cascade
    if cascade is None:
        raise DataError(
            "the early_exit gate judges a cascade, and this recipe has none",
            hint="add the section cascade, or take the gate out",
        )
    try:
        answered = ask.of_ensemble(evidence.candidate, evidence, evidence.feeds, what="samples, who leaves early")
    except InferenceError as error:
        refused = ask.refused(_LEFT, limits.in_words(at_least=options.min_left_early), error)
        return GateResult("early_exit", (refused,), {})
    left = np.asarray(answered[cascade.left_early]).reshape(count).astype(bool)
    asked = [("at_least", options.min_left_early)]
    asked += [("at_most", options.max_left_early)] if options.max_left_early is not None else []
    checks = [_share(_LEFT, left, options, **{side: limit}) for side, limit in asked]
    checks.append(_share(_REROUTED, left != cascade.left, options, at_most=options.max_rerouted))
    figures = {"samples": count, "left_early": float(left.mean()), **advising.done(evidence)}
    return GateResult("early_exit", answers.of_whom(limits.resting_on(checks, count), evidence), figures)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what lets more leave, or fewer go astray."""
    missed = {check.name for check in result.checks if check.verdict is Verdict.FAIL and check.measured is not None}
    told = []
    if _LEFT in missed:
        told.append("another threshold in `cascade.when` changes how many leave, and what `accuracy` says of it")
    if _REROUTED in missed:
        told.append(
            "the condition reads values that compression moves: `keep` the early components in higher precision, or "
            "calibrate them on more samples"
        )
    return advising.advised(result, failed="; ".join(told), undecided=advising.MORE_SAMPLES)


def _share(
    name: str, those: Array, options: Options, *, at_least: float | None = None, at_most: float | None = None
) -> Check:
    share = float(those.mean())
    interval = proportion_interval(int(those.sum()), len(those), confidence=options.confidence)
    if options.rule == "interval":
        verdict = limits.decided(interval, at_least=at_least, at_most=at_most)
    else:
        verdict = limits.within(share, at_least=at_least, at_most=at_most)
    return Check(name, share, limits.in_words(at_least=at_least, at_most=at_most), verdict, interval)
