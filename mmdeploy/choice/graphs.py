"""Time graphs of a component as its engine would run them: what a search for precision or sparsity asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from mmdeploy import engines
from mmdeploy.choice.measure import THIS_MACHINE, Bench, Race, Timings
from mmdeploy.choice.requests import requests_of
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import LatencyEstimate, MethodOptions, StepContext
from mmdeploy.core.errors import EngineError
from mmdeploy.core.sessions import open_session, specs
from mmdeploy.core.temporary import temporary_folder

#: Time for all graphs of one question together.
_MAX_SECONDS = 8.0
_MIN_ROUNDS = 8
#: Width of an interval around 1 at which more rounds would change no decision.
_NEARLY_EQUAL = 0.06


def timed(
    graphs: Mapping[str, Path | Artifact],
    engine: MethodOptions,
    context: StepContext,
    *,
    bench: Bench = THIS_MACHINE,
) -> dict[str, LatencyEstimate]:
    """Build an engine from each graph and time them in turns, each in a process of its own, one sample a request.

    Args:
        graphs: ONNX files, or artifacts that the engine consumes, by label; the first is what the others are compared
            with.
        engine: Options of the engine.
        context: Of the step that asks.
        bench: What measures.

    Raises:
        EngineError: If an engine cannot be built, loaded or run.
    """
    requests, _ = requests_of(context, 1)
    timings = Timings({label: {} for label in graphs}, seed=context.seed)
    race = Race({}, _MAX_SECONDS, _MIN_ROUNDS, timings, seed=context.seed, clock=bench.clock, progress=context.progress)
    with temporary_folder("timed") as folder, ExitStack() as stack:
        for number, (label, graph) in enumerate(graphs.items()):
            artifact = _built(graph, engine, context, folder / str(number))
            race.processes[label] = stack.enter_context(bench.start(artifact, engine, requests))
            race.processes[label].loaded()
        first = next(iter(graphs))
        race.run(lambda found: _open(found, first))
    if race.failed:
        label, why = next(iter(race.failed.items()))
        raise EngineError(f"{context.component}: {label} could not be timed: {why}")
    return {label: _estimate(timings, label, first) for label in graphs}


def _built(graph: Path | Artifact, engine: MethodOptions, context: StepContext, folder: Path) -> Artifact:
    folder.mkdir()
    source = graph if isinstance(graph, Artifact) else _artifact(graph)
    return engines.METHODS.of(engine).run(source, engine, dataclasses.replace(context, workdir=folder))


def _artifact(graph: Path) -> Artifact:
    inputs, outputs = specs(open_session(graph, {"intra_op_thread_count": "1"}))
    return Artifact("onnx", graph, file_sha256(graph), inputs, outputs, "search")


def _open(timings: Timings, first: str) -> list[str]:
    """Return what is to be timed on: all of them until each one's interval says faster, slower or nearly equal."""
    for label in timings.by_label:
        low, high = timings.interval(label, first)
        if label != first and low <= 1.0 <= high and high - low > _NEARLY_EQUAL:
            return list(timings.by_label)
    return []


def _estimate(timings: Timings, label: str, first: str) -> LatencyEstimate:
    median_ms = timings.p50_ms(label)
    assert median_ms is not None
    if label == first:
        return LatencyEstimate(median_ms, 1.0, (1.0, 1.0))
    return LatencyEstimate(median_ms, timings.ratio(label, first), timings.interval(label, first))
