"""The ``compose`` step: what all components ship as one graph, in the engine of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmdeploy import engines
from mmdeploy.core.artifact import Array, Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import MethodOptions, Progress, StepContext, method_of
from mmdeploy.core.errors import EngineError
from mmdeploy.core.sessions import AS_WRITTEN, SessionRunner, open_session
from mmdeploy.core.sizes import Lengths
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.engines.built_from import graph_path
from mmdeploy.engines.composing import Part, compose
from mmdeploy.planning.chains import full_precision
from mmdeploy.planning.planned_layout import SINGLE_REFERENCE
from mmdeploy.planning.steps import EXAMPLES, examples_from
from mmdeploy.recipe.layout import SINGLE
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.worker.examples import ensemble_examples
from mmdeploy.worker.feeds import sample_set, wires
from mmdeploy.worker.lengths import tried
from mmdeploy.worker.refusal import refusal
from mmdeploy.worker.shipped import shipped_engine
from mmdeploy.worker.task import Task

#: Samples on which the whole is held against its parts, one after the other.
_COMPARED = 4


def compose_components(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Compose the graphs of what components ship, and build the engine of the whole.

    Raises:
        EngineError: If they cannot be one model; where the layout is chosen by measuring, that is a refusal.
    """
    recipe, made = task.recipe, task.step.uses["composed"]
    parts = {name: task.artifacts[made[name]] for name in topological_order(recipe.components)}
    with temporary_folder("composed") as folder:
        graph = folder / "composed.onnx"
        source = _source(task, parts, graph)
        try:
            engine = _engine_of_all(task, parts)
            several = [Part(name, graph_path(one), *wires(recipe, name)) for name, one in parts.items()]
            modules = [part.module for part in recipe.components.values()]
            compose(several, recipe.model_outputs, graph, shared=len({*modules}) < len(modules))
            source = replace(source, sha256=file_sha256(graph))
            context = _context(task, workdir, progress)
            _hold_against(several, source, context)
            return engines.METHODS.of(engine).run(source, engine, context)
        except EngineError as error:
            if task.step.options["layout"] != "auto":
                raise
            return refusal(replace(source, sha256=""), workdir, error)


def _engine_of_all(task: Task, parts: Mapping[str, Artifact]) -> MethodOptions:
    """Return the one engine that all components ship, and the reference in full precision.

    Raises:
        EngineError: If they ship several.
    """
    recipe = task.recipe
    found = {name: shipped_engine(recipe, name, one) for name, one in parts.items()}
    if task.step.id == SINGLE_REFERENCE:
        found = {name: full_precision(recipe.engine_options(name)) for name in parts}
    (first, engine), *others = found.items()
    for name, other in others:
        if _computing(other) != _computing(engine):
            raise EngineError(
                f"{first} ships {method_of(engine)} and {name} {method_of(other)}, or with other options, and one "
                "model has one engine",
                hint="name one engine for all components, with keep: always, or say layout: ensemble",
            )
    return engine


def _computing(engine: MethodOptions) -> dict[str, object]:
    """Return what says how a graph is computed: how its INT8 is written is in the graph."""
    return engine.model_dump(exclude={"encoding"})


def _source(task: Task, parts: Mapping[str, Artifact], graph: Path) -> Artifact:
    """Describe the composed graph: what components read from outside, and what they give to it."""
    recipe = task.recipe
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    for name, part in parts.items():
        read, written = wires(recipe, name)
        for spec in part.inputs:
            if read[spec.name] not in outputs:
                inputs.setdefault(read[spec.name], replace(spec, name=read[spec.name]))
        outputs |= {written[spec.name]: replace(spec, name=written[spec.name]) for spec in part.outputs}
    given = tuple(outputs[name] for name in recipe.model_outputs)
    return Artifact("onnx", graph, "", tuple(inputs.values()), given, SINGLE)


def _context(task: Task, workdir: Path, progress: Progress) -> StepContext:
    recipe = task.recipe
    key = examples_from(recipe.data)
    samples = None if key is None else sample_set(task, key)
    first = None if samples is None else samples.first(EXAMPLES)
    read = {wire.tensor for part in recipe.components.values() for wire in part.inputs.values()}

    def examples(batch: int) -> dict[str, Array]:
        return _only(read, ensemble_examples(recipe, first, batch))

    def at_lengths(batch: int) -> Iterator[tuple[Lengths, dict[str, Array]]]:
        for lengths in tried(recipe.source_specs, first):
            yield lengths, _only(read, ensemble_examples(recipe, first, batch, lengths))

    return StepContext(
        component=SINGLE,
        workdir=workdir,
        target=recipe.target,
        encoding=task.step.encoding,
        max_batch_size=recipe.max_batch_size,
        seed=recipe.seed,
        threads=task.threads,
        examples=examples,
        at_lengths=at_lengths,
        progress=progress,
    )


def _only(names: set[str], feed: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in feed.items() if name in names}


def _hold_against(parts: Sequence[Part], whole: Artifact, context: StepContext) -> None:
    """Ask the whole what its parts answer one after the other: the same nodes, so the same numbers.

    Raises:
        EngineError: Naming the first tensor that differs.
    """
    import numpy as np

    tensors = context.examples(min(_COMPARED, context.max_batch_size or _COMPARED))
    found = _answers(whole.path, tensors, context)
    for part in parts:
        answers = _answers(part.graph, {name: tensors[tensor] for name, tensor in part.inputs.items()}, context)
        tensors = tensors | {part.outputs[name]: array for name, array in answers.items()}
    for name, array in found.items():
        if not np.array_equal(array, tensors[name], equal_nan=array.dtype.kind == "f"):
            raise EngineError(
                f"composed into one graph, components give another {name!r} than one after the other",
                hint="say layout: ensemble; and report this, since a composed graph must compute the same",
            )


def _answers(graph: Path, feed: Mapping[str, Array], context: StepContext) -> Mapping[str, Array]:
    threads = {"intra_op_thread_count": str(context.threads)}
    runner = SessionRunner(open_session(graph, threads, graph_level=AS_WRITTEN))
    try:
        return runner.infer(feed)
    finally:
        runner.close()
