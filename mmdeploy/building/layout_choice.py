"""Which layout ships: an ensemble of components, or one model of their graphs; measured where the recipe says auto.

Both are served side by side and asked in turns, by as many clients as the recipe's throughput gate has, else its
latency gate, else one. One model ships where it is faster beyond noise; what is no faster stays an ensemble, whose
parts can be watched, cached and swapped alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.building.served_ensemble import candidate_ensemble
from mmdeploy.building.staged import staged
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import MmdeployError
from mmdeploy.planning.planned_layout import SINGLE_ENGINE
from mmdeploy.recipe.layout import obstacles
from mmdeploy.worker.refusal import reason

if TYPE_CHECKING:
    from mmdeploy.building.gain import Gain
    from mmdeploy.building.judge import EvaluationRecord
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.record.observer import Observer
    from mmdeploy.scoring.load import LoadOptions

#: What the display calls it, and the folder of a run that it stages in.
STEP = "layout"


@dataclass(frozen=True)
class Layout:
    """What ships.

    Attributes:
        single: Whether components are one model.
        note: Why, for the report; empty where the recipe says it.
    """

    single: bool = False
    note: str = ""


def layout_of(
    recipe: Recipe, artifacts: Mapping[str, Artifact], record: EvaluationRecord | None, folder: Path, observer: Observer
) -> Layout:
    """Return the layout that ships, measured if it has to be.

    Args:
        recipe: Says which, or auto.
        artifacts: By step, of the whole build.
        record: What requests are made of; None where nothing is judged.
        folder: Of the run; what is staged there is removed by whoever removes the run's other stages.
        observer: Who watches.
    """
    if recipe.layout != "auto":
        return Layout(single=recipe.layout == "single")
    if why := _why_not(recipe, artifacts, record):
        return Layout(note=f"Layout: an ensemble: {why}.")
    assert record is not None
    observer.step_started(STEP)
    try:
        gain, load = _measured(recipe, artifacts, record, folder, observer)
    except MmdeployError as error:
        found = Layout(note=f"Layout: an ensemble: one model of all was not measured: {error.message}.")
    else:
        found = _decided(gain, load)
    observer.work_finished(STEP, found.note)
    return found


def _why_not(recipe: Recipe, artifacts: Mapping[str, Artifact], record: EvaluationRecord | None) -> str:
    """Say why components stay an ensemble without measuring; empty where that has to be measured."""
    for finding in obstacles(recipe):
        return f"{'.'.join(map(str, finding.path))}: {finding.message}"
    if (refused := reason(artifacts[SINGLE_ENGINE])) is not None:
        return refused
    return "nothing is served here and measured" if record is None else ""


def _measured(
    recipe: Recipe, artifacts: Mapping[str, Artifact], record: EvaluationRecord, folder: Path, observer: Observer
) -> tuple[Gain, LoadOptions]:
    from mmdeploy.building.gain import measured_gain
    from mmdeploy.building.judge import served

    single, ensemble = (
        staged(folder / STEP / name, candidate_ensemble(recipe, artifacts, single=name == "single"))
        for name in ("single", "ensemble")
    )
    load = _load(recipe)
    with served(recipe, (single, ensemble), record, (), logs=folder / "logs" / STEP) as both:
        told = "requests, as one model and as an ensemble"
        gain = measured_gain(
            both.evidence,
            both.evidence.feeds,
            load,
            progress=lambda done: observer.progress(STEP, done, None, told),
            median=load.concurrency == 1,
        )
    return gain, load


def _load(recipe: Recipe) -> LoadOptions:
    """Return the load of the recipe's throughput gate, else of its latency gate, else one client."""
    from mmdeploy.building.gain import MOST_SECONDS
    from mmdeploy.gates import latency, throughput
    from mmdeploy.scoring.load import LoadOptions

    kinds: tuple[type[LoadOptions], ...] = (throughput.Options, latency.Options)
    stated = [gate for kind in kinds for gate in recipe.gates if isinstance(gate, kind)]
    concurrency, batch = (stated[0].concurrency, stated[0].batch) if stated else (1, 1)
    return LoadOptions(concurrency=concurrency, batch=batch, max_seconds=MOST_SECONDS)


def _decided(gain: Gain, load: LoadOptions) -> Layout:
    if gain.ratio is None:
        return Layout(note=f"Layout: an ensemble: one model of all was not measured: {gain.why}.")
    single = gain.told_apart and gain.ratio.value > 1.0
    ships = "one model" if single else "an ensemble"
    by = "p50 of 1 client" if load.concurrency == 1 else f"samples a second, {load.concurrency} clients"
    told = f"{gain.times} as fast as the ensemble ({by}, {gain.requests} requests each way)"
    return Layout(single, f"Layout: {ships}: one model of all components is {told}.")
