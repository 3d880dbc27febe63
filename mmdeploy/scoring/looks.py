"""Measure for as long as a verdict needs, and no longer.

Verdicts come from intervals over units of neighbouring rounds, widened by what no interval sees: two servers started
on the same files differ by a percent or two as long as they live (where their memory came to lie), see
`SERVING_SPREAD`. Looking repeatedly at growing data would find a "significant" difference sooner or later, so look
number k spends 1/2^k of the allowed error: all looks together keep the promise. A failure must also show in each half
of the rounds alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mmdeploy.core.contracts import Check, Evidence, GateResult, Verdict
from mmdeploy.scoring.load import MIN_ROUNDS, LoadOptions, Measurement, SideBySide
from mmdeploy.scoring.metrics import Interval, percentile_interval

#: Share by which two servings of the same bytes differ lastingly. Ten pairs of servers on the same files, timed twice
#: each: the ratios of p50 scattered with a standard deviation of 0.018, where the intervals allowed for 0.009.
SERVING_SPREAD = 0.02
#: Data doubles from look to look, so this is 64 times the first look.
MAX_LOOKS = 7

#: Turns a measurement into checks, with intervals of the given confidence.
Decide = Callable[[Measurement, float], list[Check]]


def until_decided(
    pair: SideBySide, options: LoadOptions, evidence: Evidence, *, what: str, decide: Decide
) -> list[Check]:
    """Measure until no check is inconclusive, or the time is up.

    Args:
        pair: What to measure; holds the measurement afterwards.
        options: Requests before the first look, seconds at most, confidence.
        evidence: Its progress is told the requests done.
        what: What progress calls it.
        decide: Turns a measurement into checks, with intervals of the given confidence.
    """
    deadline = pair.clock() + options.max_seconds
    pair.warm_up()
    measured, checks, target = pair.measured, list[Check](), options.requests
    for look in range(1, MAX_LOOKS + 1):
        while measured.refusal is None and measured.requests < target and pair.clock() < deadline:
            pair.round()
            evidence.progress(measured.requests, target, what)
        if measured.refusal is not None:
            return [measured.refusal]
        if not measured.candidate:
            break
        measured.looks = look
        last, confidence = pair.clock() >= deadline, 1.0 - (1.0 - options.confidence) / 2.0**look
        checks = _confirmed(
            decide(measured, confidence), measured, decide, confidence, too_early=look == 1 and not last
        )
        if last or Verdict.of_all([check.verdict for check in checks]) is not Verdict.INCONCLUSIVE:
            break
        target *= 2
    if not measured.candidate:
        return [_unmeasured(f"not one round fits into max_seconds: {options.max_seconds:g}")]
    return [_explained(check, measured, options) for check in checks]


def _confirmed(
    checks: list[Check], measured: Measurement, decide: Decide, confidence: float, *, too_early: bool
) -> list[Check]:
    """Let a failure stand only if each half of the rounds shows it alone, and not on the first look while time is left.

    A busy machine can slow one of two servers down for seconds, which no interval over those seconds shows.
    """
    failed = [check.verdict is Verdict.FAIL for check in checks]
    if not any(failed):
        return checks
    halves = [decide(half, confidence) for half in measured.halves()]
    note = "beyond the limit over all rounds, but not in the earlier and in the later half of them alone"
    return [
        replace(check, verdict=Verdict.INCONCLUSIVE, note=note)
        if failed[index] and (too_early or any(half[index].verdict is not Verdict.FAIL for half in halves))
        else check
        for index, check in enumerate(checks)
    ]


def lasting(interval: Interval) -> Interval:
    """Widen an interval of a time or a rate by what starting the servers anew can change."""
    return (interval[0] * (1.0 - SERVING_SPREAD), interval[1] * (1.0 + SERVING_SPREAD))


def too_few(measured: Measurement, needed: int) -> str:
    """Say why there is too little to judge; empty when there is enough."""
    if len(measured.candidate) < MIN_ROUNDS:
        return f"{len(measured.candidate)} rounds of the {MIN_ROUNDS} that a verdict needs"
    if measured.requests < needed:
        return f"{measured.requests} requests of the {needed} that a verdict needs"
    return ""


def unjudgeable(gate: str, limit: str, batch: int, evidence: Evidence) -> GateResult | None:
    """Return the result of a gate that cannot measure at all, or None when it can."""
    if evidence.substitute is not None:
        return GateResult(gate, (replace(_unmeasured(evidence.substitute), name=gate, limit=limit),))
    if batch > max(1, evidence.max_batch_size):
        largest = max(1, evidence.max_batch_size)
        note = f"the gate asks for batches of {batch}, the ensemble takes up to {largest}"
        return GateResult(gate, (Check(gate, None, limit, Verdict.FAIL, note=note),))
    return None


def figures(measured: Measurement, options: LoadOptions) -> dict[str, Any]:
    """Return what reports plot: percentiles and rates of both sides, and how they were measured."""
    import numpy as np

    sides: dict[str, Any] = {}
    for side in ("candidate", "reference") if measured.candidate else ():
        latencies, seconds = getattr(measured, f"{side}_ms"), measured.seconds(side).sum()
        percentiles = {f"p{at}": float(np.percentile(latencies, at)) for at in (50, 90, 95, 99)}
        sides[f"{side}_ms"] = percentiles | {"mean": float(latencies.mean())}
        if len(latencies) > 1:
            sides[f"{side}_interval_ms"] = {
                f"p{at}": list(percentile_interval(latencies, float(at), confidence=options.confidence, seed=0))
                for at in (50, 95)
            }
        served = latencies.size * options.batch
        sides[f"{side}_per_second"] = float(served / seconds) if seconds > 0 else None
    return sides | {
        "batch": options.batch, "concurrency": options.concurrency, "confidence": options.confidence,
        "requests": measured.requests, "rounds": len(measured.candidate), "looks": measured.looks,
    }  # fmt: skip


def _unmeasured(note: str) -> Check:
    return Check("measured", None, "all", Verdict.INCONCLUSIVE, note=note)


def _explained(check: Check, measured: Measurement, options: LoadOptions) -> Check:
    if check.verdict is not Verdict.INCONCLUSIVE or check.note:
        return check
    note = (
        f"the limit lies inside the interval after {measured.requests} requests to each side: measure longer "
        f"(max_seconds is {options.max_seconds:g}) or on a quieter machine, or move the limit"
    )
    return replace(check, note=note)
