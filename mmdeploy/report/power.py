"""What the samples of a gate can show at all: its confidence, and the smallest change that it would see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmdeploy.baseline.against import RESOLUTION
from mmdeploy.record.build_report import BuildReport, GateRecord
from mmdeploy.report.wording import worst_first
from mmdeploy.scoring.comparison import SMALLEST_EFFECT


def sentences(report: BuildReport) -> list[str]:
    """Return a sentence for each accuracy gate of a report, and for each check of accuracy against a baseline."""
    return [f"{gate.gate}: {told}" for gate in worst_first(report) for told in of_gate(gate)]


def of_gate(gate: GateRecord) -> Iterator[str]:
    """Give what a gate can show, a sentence for each figure; nothing of gates that have no such figures."""
    metric, samples = gate.details.get("metric"), gate.details.get("samples")
    if metric is not None:
        yield from _told(str(metric), gate.details, f"{samples} samples" if samples else "the samples")
    checks = gate.details.get(RESOLUTION)
    for name, found in checks.items() if isinstance(checks, Mapping) else ():
        if isinstance(found, Mapping):
            count = next((check.samples for check in gate.checks if check.name == name), None)
            yield from _told(str(name), found, f"{count} samples" if count else "the samples")


def _told(what: str, found: Mapping[str, object], samples: str) -> Iterator[str]:
    confidence, effect = found.get("confidence"), found.get(SMALLEST_EFFECT)
    if not isinstance(confidence, int | float):
        return
    level = f"{confidence * 100:.4g} % confidence"
    if isinstance(effect, int | float):
        yield f"{what}, {level}: the smallest change that {samples} show in 4 of 5 cases is {effect:.3g}"
    elif SMALLEST_EFFECT in found:
        yield f"{what}, {level}: which changes {samples} show is not known"
