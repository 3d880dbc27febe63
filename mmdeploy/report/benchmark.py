"""The figures of a build as trackers of benchmarks read them, one commit after the other.

The form is that of github-action-benchmark's custom tools: a list of ``{name, unit, value, range, extra}``. A tracker
takes one direction a file, so there are two: what is better smaller (latencies, sizes, drops), and what is better
larger (scores, throughput). Figures that were not measured, and those that JSON cannot hold, are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmdeploy.record.build_report import BuildReport, CheckRecord
from mmdeploy.report.units import without_controls
from mmdeploy.report.wording import END_TO_END, sizes_and_total

#: Stands before the suffix of the file with what is better larger.
LARGER = ".larger"


def files(report: BuildReport, file: Path) -> dict[Path, str]:
    """Return what to write: the file, with what is better smaller, and its sibling with what is better larger."""
    smaller = [*_sizes(report), *_latencies(report), *_scores(report, larger=False), *_checks(report, "<=")]
    larger = [*_rates(report), *_scores(report, larger=True), *_checks(report, ">=")]
    sides = {file: smaller, file.with_name(f"{file.stem}{LARGER}{file.suffix}"): larger}
    return {path: json.dumps(_once(entries), indent=1) + "\n" for path, entries in sides.items()}


def _sizes(report: BuildReport) -> Iterator[dict[str, Any]]:
    for one in sizes_and_total(report):
        yield from _entry(f"{one.component}: size", one.candidate_bytes, "bytes")


def _latencies(report: BuildReport) -> Iterator[dict[str, Any]]:
    for one in report.latencies:
        under = f"batch {one.batch_size}, concurrency {one.concurrency}"
        name = f"{one.component or END_TO_END}: {one.statistic} ({under})"
        yield from _entry(name, one.candidate_ms, "ms", one.candidate_interval_ms)


def _scores(report: BuildReport, *, larger: bool) -> Iterator[dict[str, Any]]:
    """Give the scores of the accuracy gates, which need not be limited."""
    for gate in report.gates:
        scores, metric = gate.details.get("scores"), gate.details.get("metric")
        if not isinstance(scores, Mapping) or bool(gate.details.get("larger_is_better", True)) is not larger:
            continue
        value, ends = scores.get("candidate"), gate.details.get("score_interval")
        if isinstance(value, int | float):
            interval = (float(ends[0]), float(ends[1])) if isinstance(ends, list) and len(ends) == 2 else None  # type: ignore[arg-type]
            yield from _entry(f"{gate.gate}: {metric}", value, "score", interval)


def _rates(report: BuildReport) -> Iterator[dict[str, Any]]:
    """Give throughputs of the latency gates' loads, which no check holds."""
    for gate in report.gates:
        rate = gate.details.get("candidate_per_second")
        if isinstance(rate, int | float):
            under = f"batch {gate.details.get('batch')}, concurrency {gate.details.get('concurrency')}"
            yield from _entry(f"{gate.gate}: samples a second ({under})", rate, "1/s")


def _checks(report: BuildReport, sign: str) -> Iterator[dict[str, Any]]:
    for gate in report.gates:
        for check in gate.checks:
            if check.limit.startswith(sign):
                yield from _entry(
                    f"{gate.gate}: {check.name}", check.measured, _unit(check), check.interval, check.limit
                )


def _unit(check: CheckRecord) -> str:
    return check.unit or ("ratio" if "ratio" in check.name or "relative" in check.name else "score")


def _entry(
    name: str, value: float | None, unit: str, interval: tuple[float, float] | None = None, limit: str = ""
) -> Iterator[dict[str, Any]]:
    if value is None or not math.isfinite(value):
        return
    found = {"name": without_controls(name), "unit": unit, "value": value}
    if interval is not None and all(map(math.isfinite, interval)):
        found["range"] = f"{interval[0]:.6g} to {interval[1]:.6g}"
    yield found | ({"extra": f"limit {without_controls(limit)}"} if limit else {})


def _once(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries of which each has a name of its own: trackers know them by that."""
    return [*{entry["name"]: entry for entry in reversed(entries)}.values()][::-1]
