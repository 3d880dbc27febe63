"""Run one step of a plan in a process of its own.

Everything that a step needs of the recipe (its Python code, the PyTorch model, calibration batches) is loaded
here and never in the process that schedules: a crash, a leak or a changed global ends with the step.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmdeploy import engines
from mmdeploy.core import facts
from mmdeploy.core.agreement import EXACT_DB, LOW_PRECISION_DB
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Engine, MethodOptions, Pass, Progress, Rewriter
from mmdeploy.core.errors import (
    EngineError,
    EnvironmentUnfitError,
    ExportError,
    MmdeployError,
    ModelError,
    QuantizeError,
    StepError,
    StoreError,
)
from mmdeploy.core.room import LEAST_BYTES, tight
from mmdeploy.core.sizes import padding_advised
from mmdeploy.core.store import Store, translated
from mmdeploy.core.target import instruction_sets
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.engines import own_graph
from mmdeploy.engines.built_from import BuiltFrom
from mmdeploy.engines.conformance import handed_over
from mmdeploy.engines.graph_files import copy_graph
from mmdeploy.model.torch_component import in_folder
from mmdeploy.model.torch_model import FAILED
from mmdeploy.planning.chains import lowers_precision
from mmdeploy.planning.kinds import ENGINE, EXPORT, QUANTIZE, REFERENCE, StepKind
from mmdeploy.planning.steps import PROCESSOR, digest
from mmdeploy.plugins.loading import Plugin
from mmdeploy.worker.context import recipe_module, step_context, with_specs
from mmdeploy.worker.examples import Examples, keep_example
from mmdeploy.worker.lengths import named_sizes
from mmdeploy.worker.refusal import reason, refusal
from mmdeploy.worker.task import Task
from mmdeploy.worker.upstream_answers import FILENAME
from mmdeploy.worker.watched_inputs import known_identity, learned_identity, watched_recipe

#: What is raised for a graph that a step should not have left.
_FAILURES: Mapping[StepKind, type[StepError]] = {
    EXPORT: ExportError, QUANTIZE: QuantizeError, ENGINE: EngineError, REFERENCE: EngineError,
}  # fmt: skip
#: Name of the graph beside an engine that is not made of one.
_GRAPH = "exported.onnx"


def run_task(task: Task, progress: Progress) -> tuple[Artifact, bool]:
    """Run a step, or take its result from the store when another build has just made it.

    Returns:
        The artifact at its place in the store, and whether it was made here.

    Raises:
        MmdeployError: With the step's id in ``step``.
    """
    store, step = Store(task.store), task.step
    made_before = {step_id: in_folder(artifact, task.recipe.root) for step_id, artifact in task.artifacts.items()}
    task = replace(task, artifacts=made_before)
    try:
        with store.claimed(step.key):
            found = None if task.fresh else store.get(digest(known_identity(task, store)))
            if found is not None:
                return found, False
            with store.staging() as workdir, store.staging() as logs, translated(store.root):
                run = _run_launched if _is_parallel(task) else _run_watched
                artifact = run(task, workdir, logs, progress)
                identity = learned_identity(task, logs, store)
                return store.add(digest(identity), artifact, identity, replace=task.fresh), True
    except MmdeployError as error:
        error.step = error.step or step.id
        if told := tight(_room_needed(task)):
            error.hint = f"{told}: set TMPDIR to a folder on a larger disk" + (f"; {error.hint}" if error.hint else "")
        raise
    except Exception as error:
        if told := tight(_room_needed(task)):  # a library's words for a file that was cut off
            reason = f"{type(error).__name__}: {error}"
            raise StoreError(f"no space left in TMPDIR: {told} ({reason})", step=step.id) from error
        raise
    finally:
        store.facts.save()


def _room_needed(task: Task) -> int:
    """Return what libraries write to TMPDIR at most: a graph with its weights, twice."""
    return max(LEAST_BYTES, 2 * max((one.size_bytes for one in task.artifacts.values()), default=0))


def attempt(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Run a step into a folder of one's own, past the store: what it leaves there when it fails can be looked at."""
    return _run(task, workdir, progress)


def _is_parallel(task: Task) -> bool:
    """Say whether a step trains, and shall do so on several processes; a search for a ratio measures, on one."""
    return task.processes > 1 and task.step.sort.trains


def _run_launched(task: Task, workdir: Path, logs: Path, progress: Progress) -> Artifact:
    """Run a step on several processes under Accelerate's launcher; the first one's artifact is the result."""
    from mmdeploy.training.launch import run_launched

    part = (task, workdir, logs)
    artifact: Artifact = run_launched(
        f"{__name__}:run_part", part, processes=task.processes, threads=task.threads, progress=progress
    )
    return artifact


def run_part(part: tuple[Task, Path, Path], progress: Progress) -> Artifact:
    """Run a step in one of several processes: the first writes into the step's folder, the others drop their files."""
    from mmdeploy.training.launch import process_index

    task, workdir, logs = part
    if process_index() == 0:
        return _run_watched(task, workdir, logs, progress)
    with temporary_folder("part") as folder:
        return _run_watched(task, folder, logs, progress)


def _run_watched(task: Task, workdir: Path, logs: Path, progress: Progress) -> Artifact:
    with watched_recipe(task, logs):
        return _run(task, workdir, progress)


def _run(task: Task, workdir: Path, progress: Progress) -> Artifact:
    module, _, function = task.step.sort.runs.partition(":")
    try:
        artifact: Artifact = getattr(importlib.import_module(module), function)(task, workdir, progress)
    except ModelError as error:
        sizes = named_sizes(task.recipe.source_specs).values()
        ways = [f"where it takes one length only, {padding_advised(size)}" for size in sizes]
        if not ways or FAILED not in error.message:
            raise
        raise ModelError(error.message, hint="; ".join([*filter(None, [error.hint]), *ways])) from error
    return artifact


def run_method(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Run a pass or an engine; an engine that is one of several to choose from may refuse the graph.

    Raises:
        EnvironmentUnfitError: If it is machine code, planned for a processor that this machine has not.
    """
    planned = task.step.identity.get(PROCESSOR)
    if planned is not None and planned != instruction_sets():  # asks other programs
        raise EnvironmentUnfitError(
            f"{task.step.id} is machine code, planned for {planned}, and this machine is {instruction_sets()}",
            hint="run the build where it is served, or its steps on machines of the kind that plans it",
        )
    source, exported = _source(task), _exported(task)
    made = _done(task, with_specs(source, exported) if exported else source, workdir, progress)
    if task.step.sort.methods is not engines.METHODS or reason(made) is not None:
        return made
    graph = exported or source
    return _judged(task, _with_graph(made, graph), graph, progress)


def run_export(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Run an export, compare what it gives with what the recipe declares, and keep an example beside it.

    What upstream answered to examples is kept too, for later steps on the component. Where the recipe's samples differ
    in size, so may those of what upstream makes of them, declared or not.
    """
    source, examples = _source(task), Examples(task)
    source = replace(source, inputs=_with_sizes(task, source.inputs, examples.computed_inputs()))
    graph = _done(task, source, workdir, progress, examples)
    _check_declared(task, source, graph)
    feed = examples(1)
    examples.answered.save(graph.path.with_name(FILENAME))
    return keep_example(graph, {spec.name: feed[spec.name] for spec in graph.inputs})


def _with_sizes(task: Task, declared: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return what is declared of a component's inputs, with what was found of those whose size varies.

    Raises:
        ExportError: If a size is declared as a number and varies.
    """
    named = {spec.name: spec for spec in declared}
    specs = named | {spec.name: spec for spec in found if spec.name not in named}
    for spec in found:
        said = specs[spec.name]
        if any(dim != -1 and here == -1 for dim, here in zip(said.shape, spec.shape, strict=False)):
            raise ExportError(
                f"{task.step.component}: input {spec.name!r} is declared as {list(said.shape)}, and what upstream "
                f"makes of other lengths is {list(spec.shape)}",
                hint="write -1, or the name of a size, where the size varies",
            )
        specs[spec.name] = replace(said, sizes=said.sizes or spec.sizes)
    return tuple(specs.values())


def _source(task: Task) -> Artifact:
    return task.artifacts[task.step.source] if task.step.source else recipe_module(task)


def _exported(task: Task) -> Artifact | None:
    """Return the graph that goes with an engine which is made of the PyTorch module; None for any other step."""
    step_id = task.step.uses.get("graph", {}).get(task.step.component)
    return task.artifacts[step_id] if step_id is not None else None


def _with_graph(engine: Artifact, graph: Artifact) -> Artifact:
    """Put a copy of the graph beside an engine that has none: calibration downstream, and substitutes, take that."""
    if facts.find(BuiltFrom, engine.metadata) is not None:
        return engine
    path = engine.path.with_name(_GRAPH)
    copy_graph(graph.path, path)
    return replace(engine, metadata={**engine.metadata, **facts.as_metadata(BuiltFrom(path.name))})


def _judged(task: Task, engine: Artifact, graph: Artifact, progress: Progress) -> Artifact:
    """Hold an engine against its graph, where it runs on this machine; our own that are made of it have done so."""
    module: Engine = engines.METHODS.find(task.step.method, task.recipe.root)
    options, workdir = _options(task, module), engine.path.parent
    apart = isinstance(module, Plugin) or module.CONSUMES == "torch"
    if not apart or module.unavailable(options) is not None:
        return engine
    context = step_context(task, workdir, progress, needs=frozenset())
    exact_db = LOW_PRECISION_DB if lowers_precision(options) and not isinstance(module, Plugin) else EXACT_DB
    try:
        return own_graph.judge(engine, graph, context, lambda: module.load(engine, options), exact_db=exact_db)
    except EngineError as error:
        if not task.step.optional:
            raise
        return refusal(graph, workdir, error)


def _options(task: Task, module: Pass) -> MethodOptions:
    return module.Options.model_validate_json(json.dumps(dict(task.step.options)))


def _done(
    task: Task, source: Artifact, workdir: Path, progress: Progress, examples: Examples | None = None
) -> Artifact:
    step = task.step
    module = step.sort.module(step.method, task.recipe.root)
    assert module is not None
    options = _options(task, module)
    context = step_context(task, workdir, progress, needs=module.data_needs(options))
    context = context if examples is None else replace(context, examples=examples, at_lengths=examples.at_lengths)
    made = step.uses.get("made")
    try:
        if made is not None:
            assert isinstance(module, Rewriter)
            artifact = module.write(source, task.artifacts[made[step.component]], options, context)
        else:
            artifact = module.run(source, options, context)
        fails = _FAILURES.get(step.sort, StepError)
        whole = _whole(artifact, module, workdir)
        return handed_over(
            whole, source, context.examples, fails=fails, component=step.component, at_lengths=context.at_lengths
        )
    except EngineError as error:
        if not step.optional:
            raise
        return refusal(source, workdir, error)


def _whole(made: object, module: Pass, workdir: Path) -> Artifact:
    """Return what a method made; what a plug-in made only if it is what it says.

    Raises:
        StepError: If it is no artifact, of another format, not in the step's folder, or changed after its digest was
            taken.
    """
    if not isinstance(made, Artifact):
        raise StepError(f"{module.__name__} returned {type(made).__name__}, expected an Artifact")
    if not isinstance(module, Plugin):
        return made
    wrong = ""
    if made.format != module.PRODUCES:
        wrong = f"its format is {made.format!r}, and PRODUCES is {module.PRODUCES!r}"
    elif made.path.parent.resolve() != workdir.resolve() or not made.path.is_file():
        wrong = f"{made.path} is no file in context.workdir, {workdir}"
    elif made.sha256 != file_sha256(made.path):
        wrong = f"the SHA-256 of {made.path.name} is not the one that it says"
    if wrong:
        raise StepError(f"{module.__name__} returned an artifact that cannot be taken: {wrong}")
    return made


def _check_declared(task: Task, source: Artifact, graph: Artifact) -> None:
    """Compare what the recipe declares with what the exported graph really takes and gives.

    What is declared where an upstream component writes it is for that component's export to refuse.

    Raises:
        ExportError: Naming the first tensor that differs.
    """
    wires, sources = task.recipe.components[task.step.component].inputs, task.recipe.sources()
    own = {name for name, wire in wires.items() if wire.dtype or wire.shape or wire.tensor in sources}
    inputs = tuple(spec for spec in source.inputs if spec.name in own)
    for side, declared, found in (("input", inputs, graph.inputs), ("output", source.outputs, graph.outputs)):
        real = {spec.name: spec for spec in found}
        for spec in declared:
            here = real[spec.name]
            sizes = zip(spec.shape, here.shape, strict=False)
            same_shape = len(spec.shape) == len(here.shape) and all(-1 in pair or pair[0] == pair[1] for pair in sizes)
            if spec.dtype != here.dtype or not same_shape:
                raise ExportError(
                    f"{task.step.component}: {side} {spec.name!r} is {here.dtype} {list(here.shape)}, "
                    f"the recipe declares {spec.dtype} {list(spec.shape)}",
                    hint="correct the dtype or shape in the recipe; the batch dimension is left out",
                )
