"""The figures that reports plot, read out of the steps' artifacts and the gates' results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmdeploy.build_report import CostRecord, LatencyRecord, SizeRecord, Stage, StageSeries
from mmdeploy.chains import original_graph
from mmdeploy.costs import Costs

if TYPE_CHECKING:
    from mmdeploy.artifact import Artifact
    from mmdeploy.contracts import GateResult
    from mmdeploy.recipe import Recipe

_STATISTICS = ("p50", "p95")


def stages(recipe: Recipe, artifacts: Mapping[str, Artifact], results: Sequence[GateResult]) -> tuple[StageSeries, ...]:
    """Say where accuracy went: the scored metric end to end, and the noise of each component stage by stage."""
    series = [_score_series(result.details) for result in results if result.gate == "accuracy"]
    tensors: Mapping[str, Any] = next(
        (result.details.get("tensors", {}) for result in results if result.gate == "parity"), {}
    )
    for name in recipe.components:
        found = tuple(_component_stages(name, artifacts, tensors))
        if found:
            series.append(StageSeries(component=name, metric="SQNR", unit="dB", stages=found))
    if "end to end" in tensors:
        last = (Stage(label="served", value=_sqnr_db(tensors["end to end"])),)
        series.append(StageSeries(component=None, metric="SQNR", unit="dB", stages=last))
    return tuple(one for one in series if one is not None)


def _score_series(details: Mapping[str, Any]) -> StageSeries | None:
    scores = details.get("scores")
    if not scores:
        return None
    return StageSeries(
        component=None,
        metric=str(details["metric"]),
        stages=(
            Stage(label="PyTorch FP32", value=scores.get("original")),
            Stage(label="FP32 served", value=scores.get("reference"), note=str(details.get("reference_problem", ""))),
            Stage(label="served", value=scores.get("candidate"), interval=details.get("score_interval")),
        ),
    )


def _component_stages(name: str, artifacts: Mapping[str, Artifact], tensors: Mapping[str, Any]) -> Iterator[Stage]:
    quantized = artifacts.get(f"{name}/quantize")
    if quantized and quantized.metadata.get("sqnr_db"):
        worst = min(float(value) for value in quantized.metadata["sqnr_db"].values())
        yield Stage(label="INT8 graph", value=worst, note="against its FP32 graph, on calibration batches")
    served = [_sqnr_db(figures) for label, figures in tensors.items() if label.split(".")[0] == name]
    measured = [value for value in served if value is not None]
    if measured:
        note = "against PyTorch, on evaluation samples"
        yield Stage(label="served", value=min(measured), note=note + ("; the worst output" if measured[1:] else ""))


def _sqnr_db(figures: Mapping[str, Any]) -> float | None:
    return figures["sqnr_db"]["mean"] if "sqnr_db" in figures else None


def sizes(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> tuple[SizeRecord, ...]:
    """Return the bytes of each component's engine and of its FP32 reference, as far as they were made."""
    records = []
    for name in recipe.components:
        candidate = artifacts.get(f"{name}/engine")
        reference = artifacts.get(f"{name}/reference") or artifacts.get(original_graph(recipe, name))
        if candidate or reference:
            records.append(
                SizeRecord(
                    component=name,
                    reference_bytes=reference.size_bytes if reference else None,
                    candidate_bytes=candidate.size_bytes if candidate else None,
                )
            )
    return tuple(records)


def costs(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> tuple[CostRecord, ...]:
    """Return parameters and FLOPs of each component as the recipe gives it and as it ships, where they were counted."""
    records = []
    for name in recipe.components:
        engine, original, exported = (
            artifacts.get(step_id) for step_id in (f"{name}/engine", original_graph(recipe, name), f"{name}/export")
        )
        if engine and original and exported and "costs" in original.metadata and "costs" in exported.metadata:
            shipped = exported if _ships_compressed(engine) else original
            records.append(
                CostRecord(
                    component=name,
                    reference=Costs(**original.metadata["costs"]),
                    candidate=Costs(**shipped.metadata["costs"]),
                )
            )
    return tuple(records)


def _ships_compressed(engine: Artifact) -> bool:
    """Say whether what was chosen is compressed; where nothing was chosen, it is whatever the recipe asks for."""
    chosen = engine.metadata.get("chosen")
    return chosen is None or any(
        one["label"] == chosen and one["compressed"] for one in engine.metadata["measurements"]
    )


def latencies(results: Sequence[GateResult]) -> tuple[LatencyRecord, ...]:
    """Return what the latency gates measured, end to end and per component."""
    records: list[LatencyRecord] = []
    for result in results:
        if result.gate != "latency":
            continue
        records.extend(_latency_records(None, result.details))
        for name, figures in result.details.get("components", {}).items():
            if not any(record.component == name for record in records):
                records.extend(_latency_records(name, figures))
    return tuple(records)


def _latency_records(component: str | None, figures: Mapping[str, Any]) -> Iterator[LatencyRecord]:
    reference, candidate = figures.get("reference_ms"), figures.get("candidate_ms")
    if not reference or not candidate:
        return
    for statistic in _STATISTICS:
        yield LatencyRecord(
            component=component,
            statistic=statistic,
            batch_size=figures["batch"],
            concurrency=figures["concurrency"],
            reference_ms=reference[statistic],
            candidate_ms=candidate[statistic],
            reference_interval_ms=figures.get("reference_interval_ms", {}).get(statistic),
            candidate_interval_ms=figures.get("candidate_interval_ms", {}).get(statistic),
        )
