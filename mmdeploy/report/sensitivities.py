"""What layer groups cost in INT8, and what a search did about it, from the metadata of steps; one wording for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mmdeploy.record.build_report import BuildReport, StepRecord
from mmdeploy.report.units import figure_text, interval_text

HEAD = ("Layer group", "Drop", "Interval", "SQNR", "Cosine", "Weights")
DECISION_HEAD = ("Decision", "Why", "Cost", "Gain")


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


Found = TypeVar("Found", bound=_Facts)


class Scored(_Facts):
    """What quantizing something does at the fused output; ``sqnr_db`` is None where no answer changed."""

    metric: float
    drop: float
    drop_interval: tuple[float, float] | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    samples: int = 0


class GroupScore(Scored):
    """The same of one layer group alone."""

    group: str
    weights: int = 0


class Sensitivity(_Facts):
    """Layer groups of a component, worst first.

    Attributes:
        sensitivity: Each group alone in INT8, all else in FP32.
        metric: Name of the task's metric.
        whole: The component with all groups in INT8.
    """

    sensitivity: tuple[GroupScore, ...]
    metric: str = "metric"
    whole: Scored | None = None


class Taken(_Facts):
    """One decision of a search."""

    what: str
    why: str = ""
    cost: str = ""
    gain: str = ""


class Search(_Facts):
    """What a search decided.

    Attributes:
        decisions: In the order in which they were taken.
        held_back: The result on samples that the search did not see.
        max_drop: Its budget.
        metric: Name of the task's metric.
        result: What was found, in words; empty where the layer groups say it.
        int8_groups: Layer groups in INT8; empty for a search that is not about precision.
        float_groups: Those that went back to FP32.
        evaluations: Scores that it took.
    """

    decisions: tuple[Taken, ...]
    held_back: Scored | None = None
    max_drop: float | None = None
    metric: str = "metric"
    result: str = ""
    int8_groups: tuple[str, ...] = ()
    float_groups: tuple[str, ...] = ()
    evaluations: int | None = None


def sensitivities(report: BuildReport) -> list[tuple[str, Sensitivity]]:
    """Return the components whose layer groups were measured, with the measurements.

    What a search measured on its half of the samples is left out where all samples were measured.
    """
    found: dict[str, Sensitivity] = {}
    for step in sorted(report.steps, key=lambda step: step.kind != "sensitivity"):
        read = _read(Sensitivity, step)
        if read is not None and read.sensitivity:
            found.setdefault(step.component, read)
    return [*found.items()]


def searches(report: BuildReport) -> list[tuple[StepRecord, Search]]:
    """Return the steps that searched, with what they decided; not those that write the result in another encoding."""
    found = ((step, _read(Search, step)) for step in report.steps if step.method == "auto" and step.kind != "select")
    return [(step, search) for step, search in found if search is not None and search.evaluations is not None]


def rows(measured: Sensitivity) -> list[tuple[str, ...]]:
    """Return a row a group as people read it, the cells of `HEAD`; the component as a whole last."""
    named: list[tuple[str, Scored, str]] = [
        (group.group, group, f"{group.weights:,}".replace(",", " ")) for group in measured.sensitivity
    ]
    if measured.whole is not None:
        named.append(("all together", measured.whole, ""))
    return [
        (
            name, drop_text(one), interval_text(one.drop, one.drop_interval), sqnr_text(one),
            "–" if one.cosine is None else f"{one.cosine:.5f}", weights,
        )
        for name, one, weights in named
    ]  # fmt: skip


def drop_text(one: Scored) -> str:
    """Return a drop as precise as its interval allows."""
    return figure_text(one.drop, one.drop_interval)


def sqnr_text(one: Scored) -> str:
    """Return the SQNR at the fused output."""
    return "unchanged" if one.sqnr_db is None else f"{one.sqnr_db:.1f} dB"


def told(search: Search) -> str:
    """Return what a search came to in a sentence."""
    parts = [search.result] if search.result else []
    if search.int8_groups or search.float_groups:
        total = len(search.int8_groups) + len(search.float_groups)
        parts.append(f"{len(search.int8_groups)} of {total} layer groups in INT8")
    if search.held_back is not None:
        held = search.held_back
        interval = interval_text(held.drop, held.drop_interval)
        parts.append(
            f"{search.metric} drops by {drop_text(held)} {interval}".rstrip()
            + f" on {held.samples} samples held back"
            + (f" (budget {search.max_drop:g})" if search.max_drop is not None else "")
        )
    if search.evaluations is not None:
        parts.append(f"{search.evaluations} evaluations")
    return "; ".join(parts)


def decisions(search: Search) -> Sequence[tuple[str, ...]]:
    """Return a row a decision, the cells of `DECISION_HEAD`."""
    return [(one.what, one.why, one.cost, one.gain) for one in search.decisions]


def _read(kind: type[Found], step: StepRecord) -> Found | None:
    try:
        return kind.model_validate(step.metadata)
    except ValidationError:  # a step of another kind, or one that failed
        return None
