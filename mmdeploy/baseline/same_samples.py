"""Two builds on the same samples: which were answered otherwise, and what that says of both."""

from __future__ import annotations

from dataclasses import dataclass

from mmdeploy.core.facts import find
from mmdeploy.data.contents import SetFacts
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.record.build_report import BuildReport, GateRecord
from mmdeploy.scoring.comparison import are_counts, drop_interval, smallest_effect
from mmdeploy.scoring.kept import scores_in

#: Of a comparison of two builds, where the reports do not say.
_CONFIDENCE = 0.95
#: Samples that are named.
_MOST_SAMPLES = 50


@dataclass(frozen=True)
class Flips:
    """The same samples, scored in both builds.

    Attributes:
        metric: The metric.
        samples: How many there are.
        worse: Numbers of those that the second build scores worse, the largest losses first; 50 at most.
        better: Of those that it scores better.
        worse_count: How many are worse.
        better_count: How many are better.
        drop: What the second build loses against the first, in the metric's unit; negative is a gain.
        interval: Its confidence interval, from the paired comparison.
        confidence: Of the interval.
        smallest_effect: The smallest change that such samples show, see `mmdeploy.scoring.comparison.smallest_effect`.
    """

    metric: str
    samples: int
    worse: tuple[int, ...]
    better: tuple[int, ...]
    worse_count: int
    better_count: int
    drop: float
    interval: tuple[float, float]
    confidence: float
    smallest_effect: float | None


def content_of(report: BuildReport) -> str | None:
    """Return the digest of the evaluation samples that a build was judged on; None where it is not known."""
    recorded = (step for step in report.steps if step.id == DATA_SETS["evaluation"])
    facts = (find(SetFacts, step.metadata) for step in recorded)
    return next((one.content for one in facts if one is not None), None)


def scored_gates(report: BuildReport) -> dict[str, GateRecord]:
    """Return the accuracy gates by what they score."""
    gates = (gate for gate in report.gates if gate.gate == "accuracy" and "source" in gate.details)
    return {str([gate.details.get(key) for key in ("source", "outputs", "arguments")]): gate for gate in gates}


def flips_of(before: GateRecord, after: GateRecord, seed: int) -> Flips | None:
    """Compare two accuracy gates sample by sample; None where not both keep the score of each sample."""
    import numpy as np

    one, other = scores_in(before.details), scores_in(after.details)
    if one is None or other is None or len(one) != len(other) or not len(one):
        return None
    larger = bool(before.details.get("larger_is_better", True))
    lost = one - other if larger else other - one
    order = np.argsort(-lost, kind="stable").tolist()
    worse = [index for index in order if lost[index] > 0]
    better = [index for index in reversed(order) if lost[index] < 0]
    confidence = confidence_of(before)
    ends = drop_interval(one, other, larger_is_better=larger, confidence=confidence, seed=seed)
    return Flips(
        metric=str(before.details.get("metric")),
        samples=len(one),
        worse=tuple(worse[:_MOST_SAMPLES]),
        better=tuple(better[:_MOST_SAMPLES]),
        worse_count=len(worse),
        better_count=len(better),
        drop=float(lost.mean()),
        interval=(float(ends[0]), float(ends[1])),
        confidence=confidence,
        smallest_effect=smallest_effect(ends, confidence, units=len(one) if are_counts(one, other) else None),
    )


def confidence_of(gate: GateRecord) -> float:
    """Return the confidence of an accuracy gate's intervals."""
    found = gate.details.get("confidence")
    return float(found) if isinstance(found, int | float) else _CONFIDENCE
