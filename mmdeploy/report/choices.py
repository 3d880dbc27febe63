"""What the ``select`` steps chose and why, from their metadata, in the same words for every rendering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmdeploy.choice.record import EngineChoice, Measurement
from mmdeploy.core.facts import find
from mmdeploy.record.build_report import BuildReport
from mmdeploy.report.units import bytes_text, figure_text, interval_text, number_text

SHIPS = "ships"
HEAD = ("Candidate", "Latency p50", "Of the reference", "Interval", "Drop", "Size", "Outcome")


@dataclass(frozen=True)
class Row:
    """A candidate as people read it; the cells are those of `HEAD`.

    Attributes:
        cells: One text a column.
        ships: Whether it is the one that was chosen.
    """

    cells: tuple[str, ...]
    ships: bool


def choices(report: BuildReport) -> list[tuple[str, EngineChoice]]:
    """Return each component whose engine was chosen by measuring, with the choice."""
    found = []
    for step in report.steps:
        choice = find(EngineChoice, step.metadata) if step.kind == "select" else None
        if choice is not None:
            found.append((step.component, choice))
    return found


def rows(choice: EngineChoice) -> list[Row]:
    """Return the candidates: the chosen one first, then the others by speed."""
    return [
        Row(
            (
                one.label + (" (reference)" if one.label == choice.reference else ""),
                _ms(one.p50_ms),
                _ratio(one, choice),
                interval_text(one.ratio, one.ratio_interval),
                "–" if one.drop is None else figure_text(one.drop, one.drop_interval),
                bytes_text(one.bytes),
                SHIPS if one.label == choice.chosen else one.out_because or "",
            ),
            one.label == choice.chosen,
        )
        for one in _by_speed(choice)
    ]


def sentence(component: str, choice: EngineChoice) -> str:
    """Return the ratios in a line, such as ``fusion, latency over onnxruntime FP32: openvino BF16 0.45``."""
    measured = [
        f"{one.label} {_ratio(one, choice)} {interval_text(one.ratio, one.ratio_interval)}".rstrip()
        for one in _by_speed(choice)
        if one.label != choice.reference and one.ratio is not None
    ]
    return f"{component}, latency over {choice.reference}: {'; '.join(measured) or 'not measured'}"


def reasons(component: str, choice: EngineChoice) -> list[str]:
    """Return why it was chosen, a sentence each, the component first."""
    return [f"{component}: {decision}" for decision in told(choice)]


def told(choice: EngineChoice) -> list[str]:
    """Return why it was chosen, and what could not be tried here, a sentence each."""
    labels: dict[str, list[str]] = {}
    for label, why in choice.left_out.items():
        labels.setdefault(why, []).append(label)
    return [*choice.decisions, *(f"not tried: {', '.join(named)}: {why}" for why, named in labels.items())]


def _by_speed(choice: EngineChoice) -> Sequence[Measurement]:
    def rank(one: Measurement) -> tuple[bool, bool, float]:
        return (one.label != choice.chosen, one.ratio is None, one.ratio or 0.0)

    return sorted(choice.measurements, key=rank)


def _ms(value: float | None) -> str:
    if value is None or not (math.isfinite(value) and value > 0):
        return "–"
    return f"{number_text(value, max(0, 2 - math.floor(math.log10(value))))} ms"


def _ratio(one: Measurement, choice: EngineChoice) -> str:
    if one.ratio is None:
        return "–"
    return "1" if one.label == choice.reference else figure_text(one.ratio, one.ratio_interval)
