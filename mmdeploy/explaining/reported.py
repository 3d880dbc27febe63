"""What a report tells by itself: figures stage by stage, and of each component its size, latency and noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmdeploy.explaining.findings import Section, Share
from mmdeploy.record.build_report import BuildReport, GateRecord, LatencyRecord, StageSeries
from mmdeploy.report.units import bytes_text

_END_TO_END = "end to end"


def stages(report: BuildReport, metric: str | None) -> Iterator[Section]:
    """Give the figures of each chain, first stage first.

    Args:
        report: The report.
        metric: The metric that is asked about; None for the noise of tensors.
    """
    for series in report.stages:
        noise = series.unit == "dB"
        if noise if metric is None else series.metric in (metric, f"{metric} in validation"):
            yield _series(series)


def _series(series: StageSeries) -> Section:
    unit = f", {series.unit}" if series.unit else ""
    shares = tuple(Share(one.label, one.value, one.interval, one.note) for one in series.stages)
    return Section(f"{series.component or _END_TO_END}, stage by stage: {series.metric}{unit}", shares)


def parity(gate: GateRecord) -> tuple[Section, str]:
    """Return the noise of each tensor that a parity gate compared, the noisiest first, and what it says."""
    tensors = gate.details.get("tensors")
    found: dict[str, float] = {}
    for name, figures in tensors.items() if isinstance(tensors, Mapping) else ():
        value = _mean_db(figures)
        if value is not None:
            found[str(name)] = value
    shares = tuple(Share(name, value) for name, value in sorted(found.items(), key=lambda one: one[1]))
    section = Section(
        "component by component: SQNR against PyTorch, dB", shares, "each component by itself, on PyTorch's own inputs"
    )
    own = [one for one in shares if not one.what.startswith(_END_TO_END)]
    if not own:
        return section, "the report holds no figures of tensors"
    worst = own[0]
    if len(own) > 1 and own[1].value is not None and worst.value is not None and own[1].value - worst.value < 1.0:
        return section, f"{worst.what} and {own[1].what} differ most from PyTorch, within 1 dB of each other"
    return section, f"{worst.what} differs most from PyTorch"


def _mean_db(figures: Any) -> float | None:
    found = figures.get("sqnr_db") if isinstance(figures, Mapping) else None
    value = found.get("mean") if isinstance(found, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def sizes(report: BuildReport) -> tuple[Section, str]:
    """Return the bytes of each component, the largest first, and what they say."""
    shares = []
    total = sum(one.candidate_bytes or 0 for one in report.sizes)
    for one in sorted(report.sizes, key=lambda one: -(one.candidate_bytes or 0)):
        told = f"{bytes_text(one.reference_bytes)} → {bytes_text(one.candidate_bytes)}"
        if one.candidate_bytes is not None and one.reference_bytes:
            told += f", {one.candidate_bytes / one.reference_bytes:.2f} of FP32"
        if one.candidate_bytes is not None and total:
            told += f", {one.candidate_bytes / total:.0%} of all"
        shares.append(Share(one.component, one.candidate_bytes, None, told))
    if not shares:
        return Section("component by component: bytes", ()), "the report holds no sizes"
    least = max(
        (one for one in report.sizes if one.candidate_bytes is not None and one.reference_bytes),
        key=lambda one: (one.candidate_bytes or 0) / (one.reference_bytes or 1),
        default=None,
    )
    told = f"{shares[0].what} is the largest"
    if least is not None and least.component != shares[0].what:
        told += f", and {least.component} shrank least"
    return Section("component by component: bytes", tuple(shares)), told


def latency(report: BuildReport) -> tuple[list[Section], str]:
    """Return latencies end to end and of each component alone, with what they say."""
    p50 = [one for one in report.latencies if one.statistic == "p50"]
    whole = [_latency(one) for one in p50 if one.component is None]
    parts = [one for one in p50 if one.component is not None]
    found = [Section("end to end: candidate, p50 ms", tuple(whole))] if whole else []
    if not parts:
        return found, "no component was timed alone: the gate's `per_component` says whether it is"
    ordered = sorted(parts, key=lambda one: -(one.candidate_ms or 0.0))
    note = "each asked alone, one request at a time; what is between them, and the wire, is not in it"
    found.append(Section("component by component: candidate, p50 ms", tuple(map(_latency, ordered)), note))
    slower = [one.component or "" for one in ordered if _surely(one, slower=True)]
    faster = [one.component or "" for one in ordered if _surely(one, slower=False)]
    same = [one.component or "" for one in ordered if one.component not in (*slower, *faster)]
    told = [f"{ordered[0].component} takes longest"]
    told += [f"{', '.join(slower)} surely slower than FP32"] if slower else []
    told += [f"{', '.join(faster)} surely faster than FP32"] if faster else []
    told += [f"{', '.join(same)} cannot be told from FP32"] if same else []
    return found, "; ".join(told)


def _latency(one: LatencyRecord) -> Share:
    name = one.component or f"batch {one.batch_size}, concurrency {one.concurrency}"
    ratio = ""
    if one.reference_ms and one.candidate_ms is not None:
        ratio = f"{one.candidate_ms / one.reference_ms:.2f} of FP32 ({one.reference_ms:.3g} ms)"
    return Share(name, one.candidate_ms, one.candidate_interval_ms, ratio)


def _surely(one: LatencyRecord, *, slower: bool) -> bool:
    ours, theirs = one.candidate_interval_ms, one.reference_interval_ms
    if ours is None or theirs is None:
        return False
    return ours[0] > theirs[1] if slower else ours[1] < theirs[0]
