"""The figures that reports plot, read out of the steps' artifacts and the gates' results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmdeploy.building.wired import int8_sqnr_db, shipped_int8
from mmdeploy.choice.record import EngineChoice, engine_choice
from mmdeploy.core.facts import find
from mmdeploy.model.costs import COSTS, Costs
from mmdeploy.planning.chains import original_graph, torch_sections
from mmdeploy.prune.product import PRUNING, PruningFacts
from mmdeploy.record.build_report import CostRecord, LatencyRecord, ModuleCosts, SizeRecord, Stage, StageSeries
from mmdeploy.training.record import TrainingRecord, training_record

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Artifact
    from mmdeploy.core.contracts import GateResult
    from mmdeploy.recipe.schema import Recipe

_STATISTICS = ("p50", "p95")
_ON_VALIDATION = "on validation samples"


def stages(recipe: Recipe, artifacts: Mapping[str, Artifact], results: Sequence[GateResult]) -> tuple[StageSeries, ...]:
    """Say where accuracy went.

    The scored metric end to end; for each component what pruning, training and the engine did to the metric on the
    validation split; and its noise.
    """
    series = [_score_series(result.details) for result in results if result.gate == "accuracy"]
    tensors: dict[str, Any] = {}
    for result in results:
        if result.gate == "parity":  # what an earlier gate judged stays
            tensors = {**result.details.get("tensors", {}), **tensors}
    for name in recipe.components:
        series += _validation_series(name, artifacts)
        found = tuple(_component_stages(name, artifacts, tensors))
        if found:
            series.append(StageSeries(component=name, metric="SQNR", unit="dB", stages=found))
    whole = [_sqnr_db(figures) for label, figures in tensors.items() if label.split(".")[0] == "end to end"]
    if whole:
        last = (Stage(label="served", value=min((one for one in whole if one is not None), default=None)),)
        series.append(StageSeries(component=None, metric="SQNR", unit="dB", stages=last))
    return tuple(one for one in series if one is not None)


def _score_series(details: Mapping[str, Any]) -> StageSeries | None:
    scores = details.get("scores")
    if not scores:
        return None
    return StageSeries(
        component=None,
        metric=str(details["metric"]),
        larger_is_better=bool(details.get("larger_is_better", True)),
        stages=(
            Stage(label="PyTorch FP32", value=scores.get("original")),
            Stage(label="FP32 served", value=scores.get("reference"), note=str(details.get("reference_problem", ""))),
            Stage(label="served", value=scores.get("candidate"), interval=details.get("score_interval")),
        ),
    )


def _validation_series(name: str, artifacts: Mapping[str, Artifact]) -> list[StageSeries]:
    """Return the metric of the validation split, stage by stage; nothing where no pass on the module has scored it."""
    made = {kind: artifacts.get(f"{name}/{kind}") for kind in ("recover", "train")}
    found = {kind: training_record(artifact.metadata) for kind, artifact in made.items() if artifact is not None}
    trained = {kind: training for kind, training in found.items() if training is not None}
    if not trained:
        return []
    metric = next(iter(trained.values())).metric
    choice = engine_choice(artifacts.get(f"{name}/engine"))
    if choice is not None and choice.metric != metric:
        choice = None
    stages = []
    if choice is not None:
        stages.append(Stage(label="PyTorch FP32", value=choice.original_metric, note=_ON_VALIDATION))
    for kind, training in trained.items():
        stages += _trained_stages(kind, training, pruned=f"{name}/prune" in artifacts)
    if choice is not None and (winner := choice.winner).metric is not None:
        note = f"{_ON_VALIDATION}; {winner.label}, downstream in FP32"
        label = "engine" if winner.compressed else "engine, uncompressed"
        stages.append(Stage(label=label, value=winner.metric, note=note))
    larger = next(iter(trained.values())).larger_is_better
    called = f"{metric} in validation"
    return [StageSeries(component=name, metric=called, larger_is_better=larger, stages=tuple(stages))]


def _trained_stages(kind: str, training: TrainingRecord, *, pruned: bool) -> Iterator[Stage]:
    """Give the metric before and after one training."""
    before = "INT8, untrained" if kind == "train" else "pruned" if pruned else "before training"
    after = "INT8, trained" if kind == "train" else "recovered" if pruned else "trained"
    yield Stage(label=before, value=training.epochs[0].metric, note=_ON_VALIDATION)
    yield Stage(label=after, value=training.best.metric, note=f"{_ON_VALIDATION}; {training.note}")


def _component_stages(name: str, artifacts: Mapping[str, Artifact], tensors: Mapping[str, Any]) -> Iterator[Stage]:
    if (left := int8_sqnr_db(shipped_int8(name, artifacts))) is not None:
        yield Stage(label="INT8 graph", value=left, note="against its FP32 graph, on calibration batches")
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
    """Return what each component's module costs, before and after the passes on it."""
    records = []
    for name, component in recipe.components.items():
        before, after = _module_costs(artifacts, original_graph(recipe, name)), None
        if torch_sections(component):
            after = _module_costs(artifacts, f"{name}/export")
        if before is None:
            continue
        choice = engine_choice(artifacts.get(f"{name}/engine"))
        # No gain of compression where the reference is compressed too: it is kept always then.
        compared = choice.winner if choice and not choice.of(choice.reference).compressed else None
        record = CostRecord(
            component=name,
            before=before,
            after=after,
            latency_ratio=compared.ratio if compared else None,
            latency_ratio_interval=compared.ratio_interval if compared else None,
            notes=(
                *_uncounted(_counted(artifacts, original_graph(recipe, name))),
                *_cost_notes(name, artifacts, choice, changed=after not in (None, before)),
            ),
        )
        records.append(record)
    return tuple(records)


def _module_costs(artifacts: Mapping[str, Artifact], step: str) -> ModuleCosts | None:
    found = _counted(artifacts, step)
    return ModuleCosts(**{key: value for key, value in asdict(found).items() if key != "uncounted"}) if found else None


def _counted(artifacts: Mapping[str, Artifact], step: str) -> Costs | None:
    return find(Costs, artifacts[step].metadata, under=COSTS) if step in artifacts else None


def _uncounted(found: Costs | None) -> Iterator[str]:
    if found is not None and found.uncounted:
        yield f"FLOPs leave out {', '.join(found.uncounted)}, which no formula counts"


def _cost_notes(
    name: str, artifacts: Mapping[str, Artifact], choice: EngineChoice | None, *, changed: bool
) -> Iterator[str]:
    prune = artifacts.get(f"{name}/prune")
    facts = find(PruningFacts, prune.metadata, under=PRUNING) if prune else None
    if facts and facts.note:
        yield facts.note
    if changed and choice is not None and not choice.winner.compressed:
        yield "nothing of this ships: the component goes out uncompressed"


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
