"""Compare each form of a component with the one that it was made from; this runs in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy import engines
from mmdeploy.core.artifact import Array, Artifact
from mmdeploy.core.contracts import MethodOptions, StepContext, method_of
from mmdeploy.core.errors import MmdeployError
from mmdeploy.core.facts import find
from mmdeploy.debugging import pairs, tolerances
from mmdeploy.debugging.engine_probe import EngineProbe, finding
from mmdeploy.debugging.figures import Figures, Tolerance, measure
from mmdeploy.debugging.findings import Comparison, TensorFinding
from mmdeploy.debugging.reduction import Fault, write
from mmdeploy.debugging.samples import Samples, samples
from mmdeploy.debugging.tensors import TensorGraph
from mmdeploy.debugging.torch_side import TorchSide
from mmdeploy.debugging.unoptimized import Bounds, Reference, Unoptimized, compare, first_bad, grows_most
from mmdeploy.debugging.work import DebugWork
from mmdeploy.engines.graph_files import load_graph
from mmdeploy.model.torch_component import in_folder
from mmdeploy.planning.kinds import ENGINE, EXPORT, QUANTIZE, REFERENCE
from mmdeploy.planning.steps import Step
from mmdeploy.quantize.equalize import Equalization
from mmdeploy.worker.context import recipe_module
from mmdeploy.worker.refusal import reason
from mmdeploy.worker.run_step import attempt

if TYPE_CHECKING:
    from mmdeploy.core.contracts import Progress

logger = logging.getLogger(__name__)

_GRAPHS = (EXPORT, QUANTIZE)
_ENGINES = (ENGINE, REFERENCE)
_AS_WRITTEN = ("--onnxrt", "--graph-optimization-level", "ORT_DISABLE_ALL")


def compare_all(work: DebugWork, progress: Progress) -> tuple[Samples, tuple[Comparison, ...]]:
    """Compare every form of a component that was made.

    Returns:
        What they were compared on, and the comparisons in the order of the build.

    Raises:
        MmdeployError: If the model, the data or the exported graph is of no use.
    """
    return _Stages(work, progress).all()


class _Stages:
    """The graphs of a component, and what they answer."""

    def __init__(self, work: DebugWork, progress: Progress) -> None:
        self._work, self._progress = work, progress
        self._samples = samples(work)
        self._graphs: dict[str, TensorGraph] = {}
        self._noise: dict[str, dict[str, float | None]] = {}

    def all(self) -> tuple[Samples, tuple[Comparison, ...]]:
        """Compare, step by step."""
        found = []
        steps = [step for step in self._work.steps if step.sort in (*_GRAPHS, *_ENGINES)]
        for done, step in enumerate(steps):
            self._progress(done, len(steps), f"comparing {step.id}")
            comparison = self._comparison(step)
            if comparison is not None:
                found.append(comparison)
        self._progress(len(steps), len(steps), "comparing")
        return self._samples, tuple(found)

    def _comparison(self, step: Step) -> Comparison | None:
        if step.sort is EXPORT:
            return self._exported(step) if step.id.endswith("/export") else None
        source = graph_step(step)
        artifact = self._artifact(step)
        what, against = _words(step, self._work)
        if artifact is None or self._graph_of(source) is None:
            why = self._work.failed.get(step.id, f"it was not built, for {source} failed")
            return Comparison(stage=step.id, what=what, against=against, skipped=why)
        if step.sort is QUANTIZE:
            return self._quantized(step, artifact)
        if refused := reason(artifact):
            return Comparison(stage=step.id, what=what, against=against, skipped=refused)
        return self._engine(step, artifact)

    def _exported(self, step: Step) -> Comparison:
        """Compare the exported graph with the PyTorch module."""
        what, against = _words(step, self._work)
        artifact = self._artifact(step)
        if artifact is None:
            return Comparison(stage=step.id, what=what, against=against, skipped=self._work.failed.get(step.id, ""))
        graph = self._graph(step.id, artifact.path)
        torch_made = self._work.artifacts[step.source] if step.source else recipe_module(self._work.task(step))
        module = TorchSide(in_folder(torch_made, self._work.recipe.root), self._work.component)
        inside = dict(pairs.module_outputs(graph))
        known: dict[int, dict[str, Array]] = {}

        def reference(batch: int) -> Mapping[str, Array]:
            if batch not in known:
                outputs, inner = module.run(self._samples.batches[batch])
                known.clear()
                known[batch] = {tensor: inner[path] for path, tensor in inside.items() if path in inner} | outputs
            return known[batch]

        first = Unoptimized(graph.watched([name for name in reference(0) if name in graph.computed]))
        here = first.run(self._samples.batches[0])
        alike = [name for name, array in here.items() if array.shape == reference(0)[name].shape]
        matched = pairs.same_names(graph, alike)
        tolerance = tolerances.exported(self._work.tolerance)
        found = compare(graph, matched, reference, self._samples.batches, Bounds(tolerance, tolerance))
        if all(one.within for one in found if one.is_output):
            # An exporter may move a scale or a bias from one module to the next: only the outputs say that it is wrong.
            found = [one for one in found if one.within]
        return self._judged(step, graph, found, reference, (tolerance, tolerance))

    def _quantized(self, step: Step, artifact: Artifact) -> Comparison:
        """Compare a Q/DQ graph with the float graph that it was made from."""
        before = self._graphs[graph_step(step)]
        graph = self._graph(step.id, artifact.path)
        total, own = tolerances.quantized(self._work.tolerance)
        known = {*before.computed, *before.inputs}
        matched = pairs.quantized(graph, known, find(Equalization, artifact.metadata))
        reference = self._as_written(before)
        found = compare(graph, matched, reference, self._samples.batches, Bounds(total, own))
        self._noise[step.id] = {one.tensor: one.sqnr_db for one in found}
        return self._judged(step, graph, found, reference, (total, own))

    def _judged(
        self,
        step: Step,
        graph: TensorGraph,
        found: Sequence[TensorFinding],
        reference: Reference,
        bounds: tuple[Tolerance, Tolerance],
    ) -> Comparison:
        what, against = _words(step, self._work)
        first = first_bad(found)
        comparison = Comparison(
            stage=step.id, what=what, against=against, tensors=tuple(found), first=first, grows_most=grows_most(found),
            notes=self._notes(step),
        )  # fmt: skip
        if first is None:
            return comparison
        feed, wanted = self._samples.batches[first.batch], reference(first.batch)
        # A piece starts at what nodes compute and ends at the bad tensor, each by its name in this graph.
        values = {**feed, **{one.tensor: wanted[one.reference] for one in found}}
        cuts = [one.tensor for one in found if one.tensor == one.reference]
        tolerance = bounds[0] if first.own_within else bounds[1]
        fault = Fault(graph, first.tensor, values, cuts, tolerance)

        def run(model: Any, given: Mapping[str, Array]) -> Mapping[str, Array]:
            return Unoptimized(model).run(given)

        written = write(fault, run, self._work.folder / _slug(step.id), _AS_WRITTEN)
        return comparison.model_copy(update={"reproduction": written})

    def _engine(self, step: Step, artifact: Artifact) -> Comparison:
        """Compare an engine with its graph as it is written; where its outputs are bad, find out where that begins."""
        what, against = _words(step, self._work)
        options = options_of(step, self._work)
        module = engines.METHODS.of(options)
        if missing := module.unavailable(options):
            return Comparison(stage=step.id, what=what, against=against, skipped=f"it cannot run here: {missing}")
        graph = self._graphs[graph_step(step)]
        named, others = tolerances.engine(self._work.tolerance, options, self._noise.get(graph_step(step), {}))
        probe = EngineProbe(graph, options, self._context(step), {**named, "": others})
        outputs = [name for name in graph.outputs if name in graph.computed]
        reference = self._as_written(graph)
        figures = self._outputs_of(module.load(artifact, options), outputs, probe, reference)
        bad = [name for name in outputs if not all(one.within for one in figures[name].values())]
        found = {name: finding(graph, name, figures[name], probe.tolerance(name)) for name in outputs}
        of_graph = module.CONSUMES == "onnx"  # what is made of the PyTorch module cannot be made of a piece of a graph
        first = (self._first_in_engine(probe, bad[0], reference) if of_graph else bad[0]) if bad else None
        found = probe.findings() | found
        comparison = Comparison(
            stage=step.id,
            what=what,
            against=against,
            tensors=tuple(found[name] for name in graph.computed if name in found),
            first=found[first] if first else None,
            grows_most=found[first] if first else None,
            notes=self._notes(step),
        )
        if first is None or not of_graph:
            return comparison
        batch = found[first].batch
        wanted = {**self._samples.batches[batch], **reference(batch)}
        fault = Fault(graph, first, wanted, _floats(graph, wanted), probe.tolerance(first))
        folder = self._work.folder / _slug(step.id)
        written = write(fault, lambda model, given: probe.answers(model, [given])[0], folder, _engine_runner(options))
        return comparison.model_copy(update={"reproduction": written})

    def _outputs_of(
        self, runner: Any, outputs: Sequence[str], probe: EngineProbe, reference: Reference
    ) -> dict[str, dict[int, Figures]]:
        figures: dict[str, dict[int, Figures]] = {name: {} for name in outputs}
        try:
            for batch, feed in enumerate(self._samples.batches):
                wanted, answers = reference(batch), runner.infer(feed)
                for name in outputs:
                    figures[name][batch] = measure(wanted[name], answers[name], probe.tolerance(name))
        finally:
            runner.close()
        return figures

    def _first_in_engine(self, probe: EngineProbe, output: str, reference: Reference) -> str:
        """Return the first tensor that is bad when an engine is built up to it, on the first batch."""
        wanted = [{**self._samples.batches[0], **reference(0)}]
        return probe.first_bad(output, _floats(probe.graph, wanted[0]), wanted)

    def _as_written(self, graph: TensorGraph) -> Reference:
        """Return what gives all tensors of a graph, one batch at a time."""
        session = Unoptimized(graph.watched(graph.computed), threads=self._work.threads)
        known: dict[int, dict[str, Array]] = {}

        def reference(batch: int) -> Mapping[str, Array]:
            if batch not in known:
                known.clear()
                feed = self._samples.batches[batch]
                known[batch] = {**feed, **session.run(feed)}
            return known[batch]

        return reference

    def _artifact(self, step: Step) -> Artifact | None:
        """Return what a step made; of one that failed, the graph that it left behind, or the engine as it is."""
        if step.id in self._work.artifacts:
            return self._work.artifacts[step.id]
        if step.id not in self._work.failed or (step.sort in _ENGINES and self._graph_of(graph_step(step)) is None):
            return None
        folder = self._work.folder / _slug(step.id) / "failed"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if step.sort in _ENGINES:
                return self._as_it_is(step, folder)
            return attempt(self._work.task(step), folder, self._progress)
        except MmdeployError as error:
            logger.info("%s failed again: %s", step.id, error)
        path = folder / "model.onnx"
        return Artifact("onnx", path, "", (), (), step.method) if path.is_file() else None

    def _as_it_is(self, step: Step, folder: Path) -> Artifact:
        """Build an engine that a step has refused since it answers something else than its graph."""
        options, source = options_of(step, self._work), self._work.artifacts[graph_step(step)]
        context = dataclasses.replace(self._context(step), workdir=folder)
        return engines.METHODS.of(options).run(source, options, context)

    def _graph(self, step_id: str, path: Path) -> TensorGraph:
        self._graphs[step_id] = TensorGraph(load_graph(path))
        return self._graphs[step_id]

    def _graph_of(self, step_id: str) -> TensorGraph | None:
        """Return the graph of a step, compared or not; None where there is none."""
        if step_id not in self._graphs and step_id in self._work.artifacts:
            self._graph(step_id, self._work.artifacts[step_id].path)
        return self._graphs.get(step_id)

    def _notes(self, step: Step) -> tuple[str, ...]:
        failed = self._work.failed.get(step.id)
        return (f"the step failed, and this is the graph that it refused: {failed}",) if failed else ()

    def _context(self, step: Step) -> StepContext:
        recipe = self._work.recipe
        feed = self._samples.batches[0]
        return StepContext(
            component=self._work.component,
            workdir=self._work.folder,
            target=recipe.target,
            encoding=step.encoding,
            max_batch_size=recipe.components[self._work.component].serving.max_batch_size,
            seed=recipe.seed,
            threads=self._work.threads,
            examples=lambda size: {name: array[:size] for name, array in feed.items()},
            settles=False,
        )


def _words(step: Step, work: DebugWork) -> tuple[str, str]:
    """Return what a step made and what it is compared with, in words."""
    if step.sort is EXPORT:
        return "the exported graph", "PyTorch"
    if step.sort is QUANTIZE:
        return f"the INT8 graph ({step.encoding})", "the exported graph"
    options = options_of(step, work)
    made_of = "the INT8 graph" if "/quantize" in graph_step(step) else "the exported graph"
    detail = f" {precision}" if (precision := getattr(options, "precision", None)) else ""
    return f"{method_of(options)}{detail} on {made_of}", "the same graph as it is written"


def _floats(graph: TensorGraph, values: Mapping[str, Array]) -> list[str]:
    """Return the computed tensors that are floats: an engine may end there, and codes mean nothing by themselves."""
    return [name for name in graph.computed if name in values and values[name].dtype.kind == "f"]


def _engine_runner(options: MethodOptions) -> tuple[str, ...]:
    """Return the arguments of ``polygraphy run`` that run an engine as it is served."""
    if method_of(options) == "onnxruntime" and getattr(options, "provider", "cpu") == "cpu":
        level = {"all": "ALL", "extended": "EXTENDED", "basic": "BASIC"}.get(
            str(getattr(options, "graph_level", "all"))
        )
        return ("--onnxrt", "--graph-optimization-level", f"ORT_ENABLE_{level}" if level else "ORT_DISABLE_ALL")
    section = {"method": method_of(options), **options.model_dump(mode="json", exclude_defaults=True)}
    return ("--mmdeploy", "--mmdeploy-engine", json.dumps(section))


def options_of(step: Step, work: DebugWork) -> MethodOptions:
    """Return the options of an engine's step."""
    module = engines.METHODS.find(step.method, work.recipe.root)
    return module.Options.model_validate_json(json.dumps(dict(step.options)))


def graph_step(step: Step) -> str:
    """Return the id of the step that made the graph which a step starts from, or which answers as its source does."""
    return step.uses.get("graph", {}).get(step.component) or step.source or ""


def _slug(step_id: str) -> str:
    return step_id.partition("/")[2].replace("/", ".")
