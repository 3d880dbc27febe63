"""Measure for as long as a verdict needs, and no longer.

Verdicts come from intervals that allow for slow wander of one server, and for what starting the servers anew changes
(`mmdeploy.scoring.served_figures`). Looking repeatedly at growing data would find a "significant" difference sooner or
later: looks are at a sixteenth, an eighth, a quarter, a half and all of the time, and each may err in the share of all
errors that its share of the time is, so that all looks together keep the promise. A verdict, pass or fail, must also be
that of the earlier and of the later half of the rounds, by their figures alone: what lasts for a while is no verdict.
`benchmarks/verdict_errors.py` shows how often they err.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mmdeploy.core.contracts import Check, Evidence, GateResult, Verdict
from mmdeploy.scoring import served_figures
from mmdeploy.scoring.load import MIN_ROUNDS, Block, LoadOptions, Measurement, SideBySide
from mmdeploy.scoring.metrics import Interval

#: What two loads of the same file may differ by as long as they live, where engines are chosen and nothing is judged.
LOADING_SPREAD = 0.02
#: When to look, as shares of the time.
_LOOKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)

#: Turns a measurement into checks, with intervals of the given confidence.
Decide = Callable[[Measurement, float], list[Check]]


def until_decided(
    pair: SideBySide, options: LoadOptions, evidence: Evidence, *, what: str, decide: Decide
) -> list[Check]:
    """Measure until no check is inconclusive, or the time is up.

    Args:
        pair: What to measure; holds the measurement afterwards.
        options: Requests before the first look, seconds at most, confidence.
        evidence: Its progress is told the seconds spent.
        what: What progress calls it.
        decide: Turns a measurement into checks, with intervals of the given confidence; with confidence 0 the figures
            decide alone.
    """
    began, spent, checks = pair.clock(), 0.0, list[Check]()
    pair.warm_up()
    measured = pair.measured
    for share in _LOOKS:
        until = share * options.max_seconds
        while measured.refusal is None and (elapsed := pair.clock() - began) < options.max_seconds:
            if elapsed >= until and measured.requests >= options.requests:
                break
            pair.round()
            evidence.progress(int(pair.clock() - began), int(options.max_seconds), f"{what}: seconds")
        if measured.refusal is not None:
            return [measured.refusal]
        elapsed = min(pair.clock() - began, options.max_seconds)
        if not measured.candidate or elapsed <= spent:
            continue
        measured.looks += 1
        doubt = (1.0 - options.confidence) * (elapsed - spent) / options.max_seconds
        spent = elapsed
        checks = _confirmed(decide(measured, 1.0 - doubt), measured, decide)
        if Verdict.of_all([check.verdict for check in checks]) is not Verdict.INCONCLUSIVE:
            break
    if not measured.candidate:
        return [_unmeasured(f"not one round fits into max_seconds: {options.max_seconds:g}")]
    return [_explained(check, measured, options) for check in checks]


def _confirmed(checks: list[Check], measured: Measurement, decide: Decide) -> list[Check]:
    """Let a verdict stand only if the figures of each half of the rounds come to it too."""
    if all(check.verdict is Verdict.INCONCLUSIVE for check in checks):
        return checks
    halves = [decide(half, 0.0) for half in measured.halves()]
    note = "decided over all rounds, but not by the figures of the earlier and of the later half of them alone"
    return [
        replace(check, verdict=Verdict.INCONCLUSIVE, note=note)
        if check.verdict is not Verdict.INCONCLUSIVE and any(half[at].verdict is not check.verdict for half in halves)
        else check
        for at, check in enumerate(checks)
    ]


def lasting(interval: Interval) -> Interval:
    """Widen an interval of a ratio of times by what loading both again can change."""
    return (interval[0] * (1.0 - LOADING_SPREAD), interval[1] * (1.0 + LOADING_SPREAD))


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

    found: dict[str, Any] = {}
    sides: tuple[tuple[served_figures.Side, list[Block]], ...] = (
        ("candidate", measured.candidate), ("reference", measured.reference),
    )  # fmt: skip
    for side, blocks in sides:
        if not blocks:
            continue
        latencies, seconds = np.concatenate([one.latencies_ms for one in blocks]), sum(one.seconds for one in blocks)
        percentiles = {f"p{at}": float(np.percentile(latencies, at)) for at in (50, 90, 95, 99)}
        found[f"{side}_ms"] = percentiles | {"mean": float(latencies.mean())}
        intervals = {
            f"p{at}": served_figures.percentile_ms(measured, at, confidence=options.confidence, side=side).interval
            for at in (50, 95)
        }
        if all(math.isfinite(high) for _, high in intervals.values()):
            found[f"{side}_interval_ms"] = {name: list(interval) for name, interval in intervals.items()}
        found[f"{side}_per_second"] = float(latencies.size * options.batch / seconds) if seconds > 0 else None
    return found | {
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
