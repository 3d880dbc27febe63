"""What components cost before and after the passes on their modules, in the same words for every rendering."""

from __future__ import annotations

from collections.abc import Callable

from mmdeploy.record.build_report import BuildReport, CostRecord, ModuleCosts
from mmdeploy.report.units import bytes_text, count_text, figure_text, interval_text, ratio_text

#: Share of parameters that are not zero, from which on a module counts as dense.
_DENSE = 0.99
HEAD = ("Component", "Parameters", "Not zero", "FLOPs a sample", "Weights as FP32", "Latency of the engine")


def rows(report: BuildReport) -> list[tuple[str, ...]]:
    """Return what each component costs; the cells are those of `HEAD`."""
    return [
        (
            one.component,
            _change(one, lambda costs: costs.parameters, count_text),
            _change(one, lambda costs: costs.nonzero_parameters, count_text),
            _change(one, lambda costs: costs.flops, count_text),
            _change(one, lambda costs: costs.bytes, bytes_text),
            _latency(one) or "–",
        )
        for one in report.costs
    ]


def changed(report: BuildReport) -> list[CostRecord]:
    """Return the components of which a pass changed the costs, or has something to say about them."""
    return [one for one in report.costs if one.after not in (None, one.before) or one.notes]


def sentence(record: CostRecord) -> str:
    """Return a component's costs in a line, such as ``fusion: parameters 1.2 M → 0.5 M (0.42), ...``."""
    parts = [f"parameters {_change(record, lambda costs: costs.parameters, count_text)}"]
    if any(costs and costs.nonzero_parameters < _DENSE * costs.parameters for costs in (record.before, record.after)):
        parts.append(f"not zero {_change(record, lambda costs: costs.nonzero_parameters, count_text)}")
    parts.append(f"FLOPs a sample {_change(record, lambda costs: costs.flops, count_text)}")
    parts.append(f"weights as FP32 {_change(record, lambda costs: costs.bytes, bytes_text)}")
    if (latency := _latency(record)) and record.latency_ratio_interval is not None:
        parts.append(f"engine latency {latency}")
    return f"{record.component}: {', '.join(parts)}"


def notes(report: BuildReport) -> list[str]:
    """Return what a reader must know of the costs, a sentence each, the component first."""
    return [f"{one.component}: {note}" for one in report.costs for note in one.notes]


def _change(record: CostRecord, pick: Callable[[ModuleCosts], int], text: Callable[[float], str]) -> str:
    before = pick(record.before)
    after = before if record.after is None else pick(record.after)
    if after == before:
        return text(before)
    return f"{text(before)} → {text(after)} ({ratio_text(after, before)})"


def _latency(record: CostRecord) -> str:
    ratio, interval = record.latency_ratio, record.latency_ratio_interval
    if ratio is None:
        return ""
    if interval is None:  # what ships is the reference itself
        return "as uncompressed"
    return f"{figure_text(ratio, interval)} {interval_text(ratio, interval)} of uncompressed"
