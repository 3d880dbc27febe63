"""What layer groups cost in INT8, and what a search did about it, from the metadata of steps; one wording for all."""

from __future__ import annotations

from collections.abc import Sequence

from mmdeploy.core.facts import find
from mmdeploy.record.build_report import BuildReport, StepRecord
from mmdeploy.report.units import figure_text, interval_text
from mmdeploy.scoring.findings import PrecisionFindings, Scored, Sensitivity

HEAD = ("Layer group", "Drop", "Interval", "SQNR", "Cosine", "Weights")
DECISION_HEAD = ("Decision", "Why", "Cost", "Gain")


def sensitivities(report: BuildReport) -> list[tuple[str, Sensitivity]]:
    """Return the components whose layer groups were measured, with the measurements.

    What a search measured on its half of the samples is left out where all samples were measured.
    """
    found: dict[str, Sensitivity] = {}
    for step in sorted(report.steps, key=lambda step: step.kind != "sensitivity"):
        read = find(Sensitivity, step.metadata)
        if read is not None and read.sensitivity:
            found.setdefault(step.component, read)
    return [*found.items()]


def searches(report: BuildReport) -> list[tuple[StepRecord, PrecisionFindings]]:
    """Return the steps that searched, with what they decided; not those that write the result in another encoding."""
    searching = [step for step in report.steps if step.method == "auto" and step.kind != "select"]
    found = ((step, find(PrecisionFindings, step.metadata)) for step in searching)
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


def told(search: PrecisionFindings) -> str:
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


def decisions(search: PrecisionFindings) -> Sequence[tuple[str, ...]]:
    """Return a row a decision, the cells of `DECISION_HEAD`."""
    return [(one.what, one.why, one.cost, one.gain) for one in search.decisions]
