"""A build judged against an earlier one that was accepted: the baseline.

Accuracy is compared on the same samples, each with itself, where both reports keep the score of each sample; else by
the intervals of both. Verdicts are by the whole interval: what too few samples leave open is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mmdeploy.baseline.comparable import Goals, require_comparable
from mmdeploy.baseline.same_samples import confidence_of, flips_of, scored_gates
from mmdeploy.core.contracts import Check, GateResult, Verdict
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError
from mmdeploy.gates import limits
from mmdeploy.record.build_report import BASELINE, BuildReport, GateRecord, LatencyRecord, gate_record
from mmdeploy.scoring.comparison import SMALLEST_EFFECT, smallest_effect

#: Key in details: what each check of accuracy can show, by its name.
RESOLUTION = "resolution"
_SLACK = 1e-9


def judged(
    report: BuildReport, baseline: BuildReport, goals: Goals, measured: tuple[Check, ...] | None = None
) -> GateResult:
    """Judge a build against a baseline.

    Args:
        report: The build's.
        baseline: What it is judged by.
        goals: What it must keep.
        measured: Checks of latency, where both repositories were measured in turns; else the reports tell.

    Raises:
        UsageError: If they cannot be compared.
    """
    if report.failure is not None or not report.gates:
        raise UsageError("this build was not judged: there is nothing to compare", hint="build it to the end first")
    require_comparable(report, baseline, goals, in_turns=measured is not None)
    checks, resolution = [], dict[str, Any]()
    if goals.of_accuracy:
        for check, shown in _accuracy(report, baseline, goals):
            checks.append(check)
            if shown:
                resolution[check.name] = shown
    if goals.max_size_ratio is not None:
        checks.append(_size(report, baseline, goals.max_size_ratio))
    if goals.max_latency_ratio is not None:
        checks += _latencies(report, baseline, goals.max_latency_ratio) if measured is None else measured
    details: dict[str, Any] = {
        "baseline": {
            "recipe_sha256": baseline.recipe.sha256,
            "revision": baseline.recipe.revision,
            "started_at": baseline.started_at.isoformat(),
        }
    }
    return GateResult(BASELINE, tuple(checks), details | ({RESOLUTION: resolution} if resolution else {}))


def with_gate(report: BuildReport, result: GateResult) -> BuildReport:
    """Return a report with the judgement against a baseline as its last gate, in the place of an earlier one."""
    gates = (*(gate for gate in report.gates if gate.gate != BASELINE), gate_record(result))
    verdict = Verdict.of_all([gate.verdict for gate in gates])
    if verdict is Verdict.PASS and report.substitute is not None:
        verdict = Verdict.INCONCLUSIVE
    exits = {Verdict.PASS: EXIT_PASS, Verdict.FAIL: EXIT_GATE_FAILED, Verdict.INCONCLUSIVE: EXIT_INCONCLUSIVE}
    return report.model_copy(update={"gates": gates, "verdict": verdict, "exit_code": exits[verdict]})


def own_gates(report: BuildReport) -> Check:
    """Return what a build's own gates came to, as a check."""
    worst = Verdict.of_all([gate.verdict for gate in report.gates])
    return Check("the build's own gates", None, worst.value if worst is Verdict.PASS else "pass", worst)


def _accuracy(report: BuildReport, baseline: BuildReport, goals: Goals) -> Iterator[tuple[Check, dict[str, Any]]]:
    before, after = scored_gates(baseline), scored_gates(report)
    for what, gate in before.items():
        metric = str(gate.details.get("metric"))
        if what not in after:
            note = "the build was not judged by it"
            yield Check(metric, None, "as in the baseline", Verdict.INCONCLUSIVE, note=note), {}
        else:
            yield from _of_metric(metric, gate, after[what], baseline.seed, goals)


def _of_metric(
    metric: str, before: GateRecord, after: GateRecord, seed: int, goals: Goals
) -> Iterator[tuple[Check, dict[str, Any]]]:
    flips, score = flips_of(before, after, seed), abs(_score(before))
    if flips is not None:
        drop, interval, samples, smallest = flips.drop, flips.interval, flips.samples, flips.smallest_effect
        note = f"{flips.worse_count} of the same {samples} samples worse, {flips.better_count} better"
    else:
        larger = bool(before.details.get("larger_is_better", True))
        drop, interval = _unpaired(before, after, larger=larger)
        samples, smallest = None, smallest_effect(interval, confidence_of(before))
        note = "by the intervals of both: the metric gives no score to each sample"
    confidence = confidence_of(before)
    known = "no interval is known" if smallest is None else f"a change below {smallest:.3g} cannot be told here"
    told = f"{note}; {confidence * 100:.4g} % confidence, {known}"

    def checked(
        name: str,
        value: float,
        ends: tuple[float, float],
        *,
        of: float = 1.0,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> tuple[Check, dict[str, Any]]:
        words = limits.in_words(at_most=at_most, at_least=at_least)
        verdict = limits.decided(
            ends,
            at_most=None if at_most is None else at_most + _SLACK,
            at_least=None if at_least is None else at_least - _SLACK,
        )
        effect = None if smallest is None or not of else smallest / of
        check = Check(f"{metric} {name}", value, words, verdict, ends, note=told, samples=samples)
        return check, {"confidence": confidence, SMALLEST_EFFECT: effect}

    if goals.max_drop is not None:
        yield checked("drop", drop, interval, at_most=goals.max_drop)
    if goals.max_relative_drop is not None:
        ends = (interval[0] / score, interval[1] / score) if score else (-math.inf, math.inf)
        value = drop / score if score else math.nan
        yield checked("relative drop", value, ends, of=score, at_most=goals.max_relative_drop)
    if goals.min_gain is not None:
        yield checked("gain", -drop, (-interval[1], -interval[0]), at_least=goals.min_gain)


def _score(gate: GateRecord) -> float:
    scores = gate.details.get("scores")
    value = scores.get("candidate") if isinstance(scores, dict) else None
    return float(value) if isinstance(value, int | float) else math.nan


def _unpaired(before: GateRecord, after: GateRecord, *, larger: bool) -> tuple[float, tuple[float, float]]:
    """Return the loss and an interval that holds it wherever both scores lie in theirs."""
    drop = _score(before) - _score(after)
    ends = [gate.details.get("score_interval") for gate in (before, after)]
    if not all(isinstance(one, list) and len(one) == 2 for one in ends):
        interval = (-math.inf, math.inf)
    else:
        (low, high), (other_low, other_high) = (tuple(map(float, one)) for one in ends)  # type: ignore[arg-type]
        interval = (low - other_high, high - other_low)
    return (drop, interval) if larger else (-drop, (-interval[1], -interval[0]))


def _size(report: BuildReport, baseline: BuildReport, limit: float) -> Check:
    sizes = [[one.candidate_bytes for one in each.sizes] for each in (report, baseline)]
    words, totals = limits.in_words(at_most=limit), [sum(filter(None, each)) for each in sizes]
    if not all(totals) or any(None in each for each in sizes):
        return Check("size ratio", None, words, Verdict.INCONCLUSIVE, note="a report does not say the sizes")
    ratio = totals[0] / totals[1]
    return Check("size ratio", ratio, words, limits.within(ratio, at_most=limit, slack=_SLACK))


def _latencies(report: BuildReport, baseline: BuildReport, limit: float) -> Iterator[Check]:
    """Compare latencies as ratios to the FP32 reference that was measured beside each: machines and days differ."""
    words = limits.in_words(at_most=limit)
    before, after = _ratios(baseline), _ratios(report)
    found = [name for name in before if name in after]
    if not found:
        note = "no latency of the ensemble was measured in both builds under the same load"
        yield Check("latency ratio", None, words, Verdict.INCONCLUSIVE, note=note)
    for name in found:
        one, other = before[name], after[name]
        ends = (other[1] / one[2], other[2] / one[1])
        note = "each to the FP32 reference of its own run; by the intervals of both"
        verdict = limits.decided(ends, at_most=limit + _SLACK)
        yield Check(name, other[0] / one[0], words, verdict, ends, note=note)


def _ratios(report: BuildReport) -> dict[str, tuple[float, float, float]]:
    """Return latencies of the ensemble over the reference's, with their intervals, by what the gate calls them.

    The gate's own interval is of the two measured in turns, so it is far narrower than what both apart allow.
    """
    found: dict[str, tuple[float, float, float]] = {}
    for one in report.latencies:
        ratio = _to_reference(one) if one.component is None else None
        if ratio is not None:
            found[f"{one.statistic} ratio (batch {one.batch_size}, concurrency {one.concurrency})"] = ratio
    for check in (check for gate in report.gates if gate.gate == "latency" for check in gate.checks):
        if check.name in found and check.measured and check.interval is not None and check.interval[0] > 0:
            found[check.name] = (check.measured, *check.interval)
    return found


def _to_reference(one: LatencyRecord) -> tuple[float, float, float] | None:
    """Return the candidate's latency over the reference's, with its lowest and highest value by both intervals."""
    values = (one.candidate_ms, one.reference_ms, one.candidate_interval_ms, one.reference_interval_ms)
    if None in values or not one.reference_ms or one.candidate_ms is None:
        return None
    assert one.candidate_interval_ms is not None and one.reference_interval_ms is not None
    (low, high), (least, most) = one.candidate_interval_ms, one.reference_interval_ms
    if min(low, least) <= 0:
        return None
    return one.candidate_ms / one.reference_ms, low / most, high / least
