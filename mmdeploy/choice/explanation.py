"""A choice in plain sentences: why one candidate ships and the others do not."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mmdeploy.choice import rules
from mmdeploy.choice.record import EngineChoice, Measurement
from mmdeploy.scoring.metrics import SLACK


def reasons(failed: Mapping[str, str]) -> str:
    """Return why each candidate failed, in one line."""
    return "; ".join(f"{label}: {why}" for label, why in failed.items())


def why_not(
    entrant: rules.Entrant, ruling: rules.Ruling, compared: rules.Comparisons, max_drop: float | None
) -> str | None:
    """Say why a candidate does not ship; None for the one that does."""
    if entrant.label == ruling.winner:
        return None
    if entrant.failed is not None:
        return entrant.failed
    if rules.over_budget(entrant, max_drop):
        return f"loses {entrant.drop:.4g}, more than max_drop {max_drop:g}"
    if entrant.label == ruling.reference:
        return f"slower than {ruling.winner}"
    if not rules.is_faster(entrant.label, ruling.reference, compared):
        low = compared.interval(entrant.label, ruling.reference)[0]
        return f"{'slower' if low > 1.0 else 'not surely faster'} than {ruling.reference}"
    if compared.interval(entrant.label, ruling.winner)[0] > 1.0:
        return f"slower than {ruling.winner}"
    return f"not surely faster than {ruling.winner}, which is simpler"


def with_rounds(why: str | None, rounds: int, of: int) -> str | None:
    """Say of a candidate's figures that they are from fewer rounds than those of what ships: it left the race before.

    Args:
        why: Why it does not ship; None for the one that does.
        rounds: Rounds that it was timed in.
        of: Rounds that the one that ships was timed in.
    """
    return why if why is None or not 0 < rounds < of else f"{why}; timed in {rounds} rounds of {of}"


def decisions(record: EngineChoice, *, accuracy_judged: bool) -> tuple[str, ...]:
    """Return the sentences that explain a choice.

    Args:
        record: The choice, its ``decisions`` still to be written.
        accuracy_judged: Whether any candidate was scored on validation data.
    """
    winner, reference = record.winner, record.of(record.reference)
    told = [_shipped(winner, reference, record), *_on_compression(winner, reference, record)]
    if not accuracy_judged:
        told.append("accuracy was not looked at here: the gates judge it")
    elif record.max_drop is not None and not _keeps(winner, record.max_drop):
        why = "no candidate keeps it" if winner.compressed else "what ships upstream has spent it already"
        told.append(f"what ships loses more {record.metric} than max_drop {record.max_drop:g}: {why}")
    return tuple(told)


def _keeps(winner: Measurement, max_drop: float) -> bool:
    return winner.drop is not None and winner.drop <= max_drop + SLACK


def _shipped(winner: Measurement, reference: Measurement, record: EngineChoice) -> str:
    accuracy = ""
    if winner.drop is not None:
        worse = "above" if record.larger_is_better is False else "below"
        accuracy = f"; {record.metric} {winner.metric:.4g}, {winner.drop:.4g} {worse} the FP32 original"
    if winner is reference:
        judged = " and accurate enough" if accuracy else ""
        return f"{winner.label} ships: nothing else is surely faster{judged}{accuracy}"
    return f"{winner.label} ships: {ratio_text(winner)} of the latency of {reference.label}{accuracy}"


def _on_compression(winner: Measurement, reference: Measurement, record: EngineChoice) -> list[str]:
    """Say why the component ships uncompressed although a compressed candidate ran."""
    timed = [(one.ratio, one) for one in record.measurements if one.compressed and one.ratio is not None]
    if winner.compressed or not timed:
        return []
    _, best = min(timed, key=lambda pair: pair[0])
    return [
        f"compression does not pay: the fastest compressed candidate, {best.label}, takes {ratio_text(best)} of the "
        f"latency of {reference.label}; it is out: {best.out_because}"
    ]


def ratio_text(measurement: Measurement) -> str:
    """Return a ratio with its interval, such as ``0.31 [0.30, 0.33]``."""
    ratio, interval = measurement.ratio, measurement.ratio_interval
    if ratio is None:
        return "not measured"
    if interval is None:
        return f"{ratio:.2f}"
    half_width = (interval[1] - interval[0]) / 2
    decimals = 4 if half_width < 0.005 else 3 if half_width < 0.05 else 2
    ends = ", ".join(f"{end:.{decimals}f}" if math.isfinite(end) else "∞" for end in interval)
    return f"{ratio:.{decimals}f} [{ends}]"
