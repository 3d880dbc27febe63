"""A choice in plain sentences: why one candidate ships and the others do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmdeploy.choice import rules
from mmdeploy.scoring.metrics import SLACK


def reasons(failed: Mapping[str, str]) -> str:
    """Return why each candidate failed, in one line."""
    return "; ".join(f"{label}: {why}" for label, why in failed.items())


def why_not(
    entrant: rules.Entrant, choice: rules.Choice, compared: rules.Comparisons, max_drop: float | None
) -> str | None:
    """Say why a candidate does not ship; None for the one that does."""
    if entrant.label == choice.winner:
        return None
    if entrant.failed is not None:
        return entrant.failed
    if rules.over_budget(entrant, max_drop):
        return f"loses {entrant.drop:.4g}, more than max_drop {max_drop:g}"
    if entrant.label == choice.reference:
        return f"slower than {choice.winner}"
    if not rules.is_faster(entrant.label, choice.reference, compared):
        low = compared.interval(entrant.label, choice.reference)[0]
        return f"{'slower' if low > 1.0 else 'not surely faster'} than {choice.reference}"
    if compared.interval(entrant.label, choice.winner)[0] > 1.0:
        return f"slower than {choice.winner}"
    return f"not surely faster than {choice.winner}, which is simpler"


def decisions(record: Mapping[str, Any], *, accuracy_judged: bool) -> list[str]:
    """Return the sentences that explain a choice.

    Args:
        record: The metadata of the select step so far, with its measurements.
        accuracy_judged: Whether any candidate was scored on validation data.
    """
    by_label = {one["label"]: one for one in record["measurements"]}
    winner, reference = by_label[record["chosen"]], by_label[record["reference"]]
    told = [_shipped(winner, reference, record)]
    told += _on_compression(winner, reference, by_label)
    if not accuracy_judged:
        told.append("accuracy was not looked at here: the gates judge it")
    elif not winner["drop"] <= record["max_drop"] + SLACK:
        why = "no candidate keeps it" if winner["compressed"] else "what ships upstream has spent it already"
        told.append(f"what ships loses more {record['metric']} than max_drop {record['max_drop']:g}: {why}")
    return told


def _shipped(winner: Mapping[str, Any], reference: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    accuracy = ""
    if winner["drop"] is not None:
        worse = "above" if record.get("larger_is_better") is False else "below"
        accuracy = f"; {record['metric']} {winner['metric']:.4g}, {winner['drop']:.4g} {worse} the FP32 original"
    if winner is reference:
        judged = " and accurate enough" if accuracy else ""
        return f"{winner['label']} ships: nothing else is surely faster{judged}{accuracy}"
    return f"{winner['label']} ships: {ratio_text(winner)} of the latency of {reference['label']}{accuracy}"


def _on_compression(
    winner: Mapping[str, Any], reference: Mapping[str, Any], by_label: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say why the component ships uncompressed although a compressed candidate ran."""
    timed = [one for one in by_label.values() if one["compressed"] and one["ratio"] is not None]
    if winner["compressed"] or not timed:
        return []
    best = min(timed, key=lambda one: float(one["ratio"]))
    return [
        f"compression does not pay: the fastest compressed candidate, {best['label']}, takes {ratio_text(best)} of the "
        f"latency of {reference['label']}; it is out: {best['out_because']}"
    ]


def ratio_text(measurement: Mapping[str, Any]) -> str:
    """Return a ratio with its interval, such as ``0.31 [0.30, 0.33]``."""
    ratio, interval = measurement["ratio"], measurement["ratio_interval"]
    if ratio is None:
        return "not measured"
    if interval is None:
        return f"{ratio:.2f}"
    half_width = (interval[1] - interval[0]) / 2
    decimals = 4 if half_width < 0.005 else 3 if half_width < 0.05 else 2
    ends = ", ".join(f"{end:.{decimals}f}" if math.isfinite(end) else "∞" for end in interval)
    return f"{ratio:.{decimals}f} [{ends}]"
