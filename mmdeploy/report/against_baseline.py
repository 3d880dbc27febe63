"""A build judged against an earlier one that was accepted: the baseline.

A baseline is a report of which only that is kept what a later build is judged by, so a whole report will do, too.
Accuracy is compared on the same samples, each with itself, where both reports keep the score of each sample; else by
the intervals of both. Verdicts are by the whole interval: what too few samples leave open is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.contracts import Check, Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.gates import limits
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.record.build_report import BuildReport, GateRecord, LatencyRecord
from mmdeploy.report.comparing import content_of, flips_of, scored_gates
from mmdeploy.scoring.kept import KEPT

#: What is kept of the details of an accuracy gate.
_DETAILS = (
    "metric",
    "source",
    "outputs",
    "arguments",
    "larger_is_better",
    "confidence",
    "scores",
    "score_interval",
    KEPT,
)
_SLACK = 1e-9


@dataclass(frozen=True)
class Goals:
    """What a build must keep, against the baseline; None asks for nothing.

    Attributes:
        max_drop: Largest loss of each accuracy metric, in its unit.
        max_relative_drop: Largest loss as a share of the baseline's score.
        min_gain: Least gain of each accuracy metric, in its unit.
        max_size_ratio: Bytes of all components over the baseline's.
        max_latency_ratio: Latency over the baseline's, each as a ratio to the FP32 reference of its own run.
    """

    max_drop: float | None = None
    max_relative_drop: float | None = None
    min_gain: float | None = None
    max_size_ratio: float | None = None
    max_latency_ratio: float | None = None

    @property
    def of_accuracy(self) -> bool:
        """Whether accuracy is judged."""
        return any(goal is not None for goal in (self.max_drop, self.max_relative_drop, self.min_gain))


def trimmed(report: BuildReport) -> BuildReport:
    """Return what a later build is judged by: small enough to be committed.

    Raises:
        UsageError: If the build did not pass.
    """
    if report.verdict is not Verdict.PASS:
        raise UsageError(
            f"this build came to {report.verdict.value}: only one that passed can be a baseline",
            hint="accept the report of a build that was published",
        )
    gates = tuple(
        gate.model_copy(
            update={"tables": (), "details": {key: gate.details[key] for key in _DETAILS if key in gate.details}}
        )
        for gate in report.gates
    )
    steps = tuple(step.model_copy(update={"log": None}) for step in report.steps if step.id == DATA_SETS["evaluation"])
    nothing = {"stages": (), "costs": (), "notes": (), "log": None, "plain_recipe": None, "staged": Path("staged")}
    kept = {"gates": gates, "steps": steps, "published": None, **nothing}
    return report.model_copy(
        update={**kept, "recipe": report.recipe.model_copy(update={"path": Path(report.recipe.path.name)})}
    )


def judged(report: BuildReport, baseline: BuildReport, goals: Goals) -> tuple[Check, ...]:
    """Judge a build against a baseline.

    Raises:
        UsageError: If they cannot be compared.
    """
    if report.recipe.name != baseline.recipe.name:
        raise UsageError(f"the baseline is of {baseline.recipe.name}, the build of {report.recipe.name}")
    if report.failure is not None or not report.gates:
        raise UsageError("this build was not judged: there is nothing to compare", hint="build it to the end first")
    worst = Verdict.of_all([gate.verdict for gate in report.gates])
    checks = [Check("the build's own gates", None, worst.value if worst is Verdict.PASS else "pass", worst)]
    if goals.of_accuracy:
        checks += _accuracy(report, baseline, goals)
    if goals.max_size_ratio is not None:
        checks.append(_size(report, baseline, goals.max_size_ratio))
    if goals.max_latency_ratio is not None:
        checks += _latencies(report, baseline, goals.max_latency_ratio)
    return tuple(checks)


def _accuracy(report: BuildReport, baseline: BuildReport, goals: Goals) -> Iterator[Check]:
    before, after = scored_gates(baseline), scored_gates(report)
    if not before:
        raise UsageError("the baseline has no accuracy to compare with", hint="accept one of a build with that gate")
    samples = content_of(baseline), content_of(report)
    if None in samples or samples[0] != samples[1]:
        raise UsageError(
            "the baseline was judged on other evaluation samples: scores on them cannot be compared",
            hint="build what was accepted again on these samples, and accept that",
        )
    for what, gate in before.items():
        metric = str(gate.details.get("metric"))
        if what not in after:
            note = "the build was not judged by it"
            yield Check(metric, None, "as in the baseline", Verdict.INCONCLUSIVE, note=note)
        else:
            yield from _of_metric(metric, gate, after[what], baseline.seed, goals)


def _of_metric(metric: str, before: GateRecord, after: GateRecord, seed: int, goals: Goals) -> Iterator[Check]:
    flips, score = flips_of(before, after, seed), abs(_score(before))
    if flips is not None:
        drop, interval, samples = flips.drop, flips.interval, flips.samples
        note = f"{flips.worse_count} of the same {samples} samples worse, {flips.better_count} better"
    else:
        larger = bool(before.details.get("larger_is_better", True))
        drop, interval = _unpaired(before, after, larger=larger)
        samples, note = None, "by the intervals of both: the metric gives no score to each sample"
    half = (interval[1] - interval[0]) / 2
    told = f"{note}; a change below {half:.3g} cannot be told here"
    for name, value, ends, limit in (
        (f"{metric} drop", drop, interval, goals.max_drop),
        (
            f"{metric} relative drop",
            drop / score if score else math.nan,
            (interval[0] / score, interval[1] / score) if score else (-math.inf, math.inf),
            goals.max_relative_drop,
        ),
    ):
        if limit is not None:
            words = limits.in_words(at_most=limit)
            yield Check(
                name, value, words, limits.decided(ends, at_most=limit + _SLACK), ends, note=told, samples=samples
            )
    if goals.min_gain is not None:
        ends = (-interval[1], -interval[0])
        verdict = limits.decided(ends, at_least=goals.min_gain - _SLACK)
        words = limits.in_words(at_least=goals.min_gain)
        yield Check(f"{metric} gain", -drop, words, verdict, ends, note=told, samples=samples)


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
    totals = [sum(one.candidate_bytes or 0 for one in each.sizes) for each in (report, baseline)]
    words = limits.in_words(at_most=limit)
    if not all(totals):
        return Check("size ratio", None, words, Verdict.INCONCLUSIVE, note="a report does not say the sizes")
    ratio = totals[0] / totals[1]
    return Check("size ratio", ratio, words, limits.within(ratio, at_most=limit, slack=_SLACK))


def _latencies(report: BuildReport, baseline: BuildReport, limit: float) -> Iterator[Check]:
    """Compare latencies as ratios to the FP32 reference that was measured beside each: machines and days differ."""
    words = limits.in_words(at_most=limit)
    if report.hardware != baseline.hardware:
        note = f"the baseline was measured on another machine: {baseline.hardware}"
        yield Check("latency ratio", None, words, Verdict.INCONCLUSIVE, note=note)
        return
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
