"""How the ensemble does on each subset of its modalities: a matrix, in the same words for every rendering.

A row is a subset, the first is whole requests; a column is a figure that a gate measured in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import BuildReport, CheckRecord, GateRecord
from mmdeploy.report.units import figure_text

#: Where gates keep what they found in subsets, by the subset's label: see `mmdeploy.gates.subsets`.
SUBSETS = "subsets"
WHOLE = "all"
TITLE = "Subsets of the modalities"


def matrix(report: BuildReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows of the matrix; no rows where no subset was judged."""
    judged = [gate for gate in report.gates if isinstance(gate.details.get(SUBSETS), Mapping)]
    labels = list(dict.fromkeys(label for gate in judged for label in _subsets(gate)))
    if not labels:
        return (), []
    columns = {name: cells for gate in judged for name, cells in _columns(gate, labels)}
    head = ("Modalities", *columns, "Verdict")
    rows = [
        (label, *(cells.get(label, "") for cells in columns.values()), str(_verdict(report, label, labels)))
        for label in (WHOLE, *labels)
    ]
    return head, rows


def _subsets(gate: GateRecord) -> Mapping[str, Any]:
    found = gate.details.get(SUBSETS)
    return found if isinstance(found, Mapping) else {}


def _columns(gate: GateRecord, labels: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Give the columns of a gate: what is said in each, by subset."""
    parts: dict[str, Mapping[str, Any]] = {
        WHOLE: gate.details,
        **{label: _subsets(gate).get(label, {}) for label in labels},
    }
    if gate.gate == "accuracy":
        metric = str(gate.details.get("metric", "score"))
        yield f"{metric} of PyTorch", {label: _score(details, "original") for label, details in parts.items()}
        yield f"{metric} served", {label: _score(details, "candidate") for label, details in parts.items()}
    if gate.gate == "parity":
        yield "Worst cosine", {label: _cosine(details) for label, details in parts.items()}
    if gate.gate == "latency":
        statistic = str(gate.details.get("percentile", "p50"))
        yield f"{statistic} FP32", {label: _ms(details, "reference_ms", statistic) for label, details in parts.items()}
        yield (
            f"{statistic} served",
            {label: _ms(details, "candidate_ms", statistic) for label, details in parts.items()},
        )


def _score(details: Mapping[str, Any], whose: str) -> str:
    value = details.get("scores", {}).get(whose)
    return "" if value is None else figure_text(value)


def _cosine(details: Mapping[str, Any]) -> str:
    whole = [
        figures["cosine"]["worst"]
        for label, figures in details.get("tensors", {}).items()
        if label.partition(".")[0] == "end to end" and "cosine" in figures
    ]
    return figure_text(min(whole)) if whole else ""


def _ms(details: Mapping[str, Any], side: str, statistic: str) -> str:
    value = (details.get(side) or {}).get(statistic)
    return "" if value is None else f"{value:.3g} ms"


def _verdict(report: BuildReport, label: str, labels: list[str]) -> Verdict:
    found = [
        check.verdict for gate in report.gates for check in gate.checks if _subset_of(gate, check, labels) == label
    ]
    return Verdict.of_all(found)


def _subset_of(gate: GateRecord, check: CheckRecord, labels: list[str]) -> str:
    """Return the subset that a check is about."""
    end = " {}" if gate.gate == "graceful" else " ({})"
    return next((label for label in labels if check.name.endswith(end.format(label))), WHOLE)
