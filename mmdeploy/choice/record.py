"""What a select step says of its choice: written by `choose`, read by reports, figures and the plain recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmdeploy.choice.candidates import GraphKind
from mmdeploy.core import facts
from mmdeploy.core.artifact import Artifact
from mmdeploy.scoring.metrics import Interval


@dataclass(frozen=True)
class Measurement:
    """A candidate as it was measured.

    Attributes:
        label: What people call it.
        engine: The engine's method.
        options: The engine's options.
        graph: Which graph it was built from.
        compressed: Whether the component was pruned or quantized on the way.
        p50_ms: Median latency; None where it was not timed.
        ratio: Its latency over the reference's; None where it was not timed.
        ratio_interval: Confidence interval of ``ratio``; None for the reference itself.
        rounds: Rounds that it was timed in.
        metric: The task's metric on the validation split; None where it was not scored.
        drop: What the metric loses against the FP32 original.
        drop_interval: Confidence interval of ``drop``; None where the metric is no mean over samples.
        sqnr_db: SQNR at the ensemble's output.
        bytes: Size on disk.
        out_because: Why it does not ship; None for the one that does.
    """

    label: str
    engine: str
    options: Mapping[str, Any]
    graph: GraphKind
    compressed: bool
    p50_ms: float | None
    ratio: float | None
    ratio_interval: Interval | None
    rounds: int
    metric: float | None
    drop: float | None
    drop_interval: Interval | None
    sqnr_db: float | None
    bytes: int
    out_because: str | None


@dataclass(frozen=True)
class EngineChoice:
    """The engine that ships, out of those that were measured.

    Attributes:
        chosen: Label of the one that ships.
        engine: Its options, the method among them.
        reference: Label of the one that ratios are to.
        measurements: One a candidate.
        left_out: Why others were not even built, by label.
        decisions: Why it was chosen, a sentence each.
        metric: Name of the task's metric; None where accuracy was left to the gates.
        larger_is_better: Whether a larger metric is better; None as above.
        original_metric: What the FP32 original scores.
        max_drop: The budget.
        confidence: Of all comparisons together.
        feeds: Where the requests were from.
        batch_size: Samples a request.
    """

    chosen: str
    engine: Mapping[str, Any]
    reference: str
    measurements: tuple[Measurement, ...]
    left_out: Mapping[str, str]
    decisions: tuple[str, ...]
    metric: str | None
    original_metric: float | None
    max_drop: float | None
    confidence: float
    feeds: str
    batch_size: int
    larger_is_better: bool | None = None

    @property
    def winner(self) -> Measurement:
        """What was measured of the one that ships."""
        return self.of(self.chosen)

    def of(self, label: str) -> Measurement:
        """Return what was measured of a candidate."""
        return next(one for one in self.measurements if one.label == label)


def engine_choice(artifact: Artifact | None) -> EngineChoice | None:
    """Return the choice behind what a component ships; None where its engine was not chosen by measuring."""
    return None if artifact is None else facts.find(EngineChoice, artifact.metadata)
