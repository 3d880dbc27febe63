"""What a release says of itself that alerts can be made of: what its gates measured, and what they allow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from mmdeploy.record.build_report import BuildReport, GateRecord

_CONFIDENCE = "confidence.json"
_WITHOUT = "without "  # what labels of subsets start with
_STATISTICS = ("mean", "p50", "p95", "p99")


@dataclass(frozen=True)
class Part:
    """A model that the ensemble calls.

    Attributes:
        model: Its name in Triton.
        mean_ms: Of a request of one sample, measured alone in the build; None where it was not.
        queue_delay_ms: How long its batcher waits for more requests.
        instances: Of it on a server.
        max_batch_size: Of a batch.
        cached: Whether Triton keeps its answers.
    """

    model: str
    mean_ms: float | None
    queue_delay_ms: float
    instances: int
    max_batch_size: int
    cached: bool


@dataclass(frozen=True)
class Reference:
    """How sure the answers of an output were in the build.

    Attributes:
        bounds: Upper bounds of the buckets.
        counts: Samples in each.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """What is known of a release.

    Attributes:
        ensemble: The name in Triton.
        build: Id of the release.
        machine: What measured.
        parts: The models that the ensemble calls.
        allowed_ms: Latency by statistic: what was measured, times the room that the tightest gate left; empty without
            a gate of latency.
        allowed_by: That gate, in words.
        memory_bytes: Peak of the server in the build; None without a gate of memory.
        optional: Inputs that a request may leave out.
        judged_missing: Sets of left out inputs that the gates judged, names sorted and joined by ``+``.
        confidence: By output.
    """

    ensemble: str
    build: str
    machine: str
    parts: tuple[Part, ...]
    allowed_ms: Mapping[str, float] = field(default_factory=dict)
    allowed_by: str = ""
    memory_bytes: int | None = None
    optional: tuple[str, ...] = ()
    judged_missing: tuple[str, ...] = ()
    confidence: Mapping[str, Reference] = field(default_factory=dict)


def measured(release: Path) -> Measured:
    """Read a release.

    Raises:
        UsageError: If the folder is no release, or its files are damaged.
    """
    from mmdeploy.record.report_file import read_report

    report = read_report(release)
    name = report.recipe.name
    configs = _configs(release)
    if name not in configs:
        raise UsageError(
            f"{release} holds no ensemble {name!r}", hint="name a published release: model_repository/NAME"
        )
    by_gate = {gate.gate: gate for gate in report.gates}
    alone = _alone(report)
    parts = tuple(
        _part(config, alone.get(model[len(name) + 1 :])) for model, config in configs.items() if model != name
    )
    allowed_ms, allowed_by = _allowed(report)
    memory = by_gate["memory"].details.get("candidate_bytes") if "memory" in by_gate else None
    return Measured(
        ensemble=name,
        build=release.resolve().name,
        machine=report.hardware.cpu + "".join(f", {gpu}" for gpu in report.hardware.gpus),
        parts=parts,
        allowed_ms=allowed_ms,
        allowed_by=allowed_by,
        memory_bytes=int(memory) if isinstance(memory, (int, float)) else None,
        optional=tuple(sorted(one.name for one in configs[name].input if one.optional)),
        judged_missing=tuple(sorted(_judged_missing(report))),
        confidence=_confidence(release),
    )


def _configs(release: Path) -> dict[str, Any]:
    from mmdeploy.triton.config import parse

    files = sorted(release.glob("*/config.pbtxt"))
    return {file.parent.name: parse(file.read_text(encoding="utf-8"), str(file)) for file in files}


def _part(config: Any, alone: Mapping[str, Any] | None) -> Part:
    mean = (alone or {}).get("candidate_ms", {}).get("mean")
    return Part(
        model=config.name,
        mean_ms=mean,
        queue_delay_ms=config.dynamic_batching.max_queue_delay_microseconds / 1000,
        instances=sum(group.count or 1 for group in config.instance_group) or 1,
        max_batch_size=max(1, config.max_batch_size),
        cached=config.response_cache.enable,
    )


def _latency_gates(report: BuildReport) -> Iterator[GateRecord]:
    """Give the gates of latency that measured what is served."""
    if report.substitute is None:
        yield from (gate for gate in report.gates if gate.gate == "latency" and "candidate_ms" in gate.details)


def _alone(report: BuildReport) -> Mapping[str, Any]:
    for gate in _latency_gates(report):
        found = gate.details.get("components")
        if isinstance(found, dict):
            return found
    return {}


def _allowed(report: BuildReport) -> tuple[dict[str, float], str]:
    """Return latencies that the tightest gate allows, and that gate in words.

    A limit on one percentile, or on its ratio to the reference, leaves room above what was measured; the other
    statistics are given the same room.
    """
    found: list[tuple[float, dict[str, float], str]] = []
    for gate in _latency_gates(report):
        figures = gate.details["candidate_ms"]
        assert isinstance(figures, dict)
        for check in gate.checks:
            limit = re.match(r"<= ([0-9.eE+-]+)", check.limit)
            if limit is None or not check.measured or f"({_WITHOUT}" in check.name:
                continue
            room = max(1.0, float(limit[1]) / check.measured)
            allowed = {name: float(figures[name]) * room for name in _STATISTICS if name in figures}  # type: ignore[arg-type]
            found.append(
                (allowed["p95"], allowed, f"latency: {check.name} {check.limit}, measured {check.measured:.3g}")
            )
    if not found:
        return {}, ""
    _, allowed, words = min(found)
    return allowed, words


def _judged_missing(report: BuildReport) -> Iterator[str]:
    for gate in report.gates:
        keys: list[str] = []
        for inner in ("subsets", "missing"):
            found = gate.details.get(inner)
            keys += found if isinstance(found, dict) else []
        yield from ("+".join(sorted(key[len(_WITHOUT) :].split(" and "))) for key in keys if key.startswith(_WITHOUT))


def _confidence(release: Path) -> dict[str, Reference]:
    file = release / _CONFIDENCE
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))["outputs"]
        return {
            name: Reference(tuple(one["bucket_upper_bounds"]), tuple(one["counts"])) for name, one in content.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise UsageError(f"{file}: no histogram of confidence", hint="build again to write a new one") from cause
