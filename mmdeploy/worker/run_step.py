"""Run one step of a plan in a process of its own.

Everything that a step needs of the recipe (its Python code, the PyTorch model, calibration batches) is loaded
here and never in the process that schedules: a crash, a leak or a changed global ends with the step.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy import engines, export, prune, quantize, recover
from mmdeploy.choice import choose
from mmdeploy.choice.candidates import Candidate
from mmdeploy.choice.graphs import timed
from mmdeploy.choice.options import AutoEngine, MustPay
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import (
    FusedOutput,
    LatencyEstimate,
    MethodOptions,
    Pass,
    Progress,
    StepContext,
    Timed,
    TrainingSetup,
    data_needs,
    method_of,
)
from mmdeploy.core.errors import EngineError, ExportError, StepError
from mmdeploy.core.store import Store, translated
from mmdeploy.planning.steps import REFUSED, TORCH_KINDS
from mmdeploy.worker.feeds import Examples, calibration, graph_path
from mmdeploy.worker.fused_output import FusedEnsemble, Graphs, validation_samples
from mmdeploy.worker.original_outputs import record_original
from mmdeploy.worker.task import Task
from mmdeploy.worker.training_setup import RecipeTrainingSetup

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe, Wire

logger = logging.getLogger(__name__)

_METHODS: Mapping[str, Mapping[str, Any]] = {
    "prune": prune.METHODS,
    "recover": recover.METHODS,
    "train": quantize.METHODS,
    "sensitivity": {"sensitivity": quantize.sensitivity},
    "export": export.METHODS,
    "quantize": quantize.METHODS,
    "engine": engines.METHODS,
    "reference": engines.METHODS,
}


def run_task(task: Task, progress: Progress) -> tuple[Artifact, bool]:
    """Run a step, or take its result from the store when another build has just made it.

    Returns:
        The artifact at its place in the store, and whether it was made here.

    Raises:
        MmdeployError: With the step's id in ``step`` where it is a `StepError`.
    """
    store, step = Store(task.store), task.step
    try:
        with store.claimed(step.key):
            found = store.get(step.key)
            if found is not None:
                return found, False
            with store.staging() as workdir, translated(store.root):
                artifact = (
                    _run_launched(task, workdir, progress) if _is_parallel(task) else _run(task, workdir, progress)
                )
                return store.add(step.key, artifact, step.identity), True
    except StepError as error:
        error.step = error.step or step.id
        raise


def _is_parallel(task: Task) -> bool:
    """Say whether a step trains, and shall do so on several processes; a search for a ratio measures, on one."""
    return task.processes > 1 and task.step.kind in ("recover", "train")


def _run_launched(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Run a step on several processes under Accelerate's launcher; the first one's artifact is the result."""
    from mmdeploy.training.launch import run_launched

    part = (task, workdir)
    artifact: Artifact = run_launched(
        f"{__name__}:run_part", part, processes=task.processes, threads=task.threads, progress=progress
    )
    return artifact


def run_part(part: tuple[Task, Path], progress: Progress) -> Artifact:
    """Run a step in one of several processes: the first writes into the step's folder, the others drop their files."""
    from mmdeploy.training.launch import process_index

    task, workdir = part
    if process_index() == 0:
        return _run(task, workdir, progress)
    with tempfile.TemporaryDirectory(prefix="mmdeploy-part-") as folder:
        return _run(task, Path(folder), progress)


def _run(task: Task, workdir: Path, progress: Progress) -> Artifact:
    step = task.step
    if step.kind == "outputs":
        return record_original(task, workdir, progress)
    if step.kind == "select":
        return _select(task, workdir, progress)
    module = _METHODS[step.kind][step.method]
    source = task.artifacts[step.source] if step.source else _torch_artifact(task)
    options = module.Options.model_validate_json(json.dumps(dict(step.options)))
    context = _context(task, workdir, progress, needs=data_needs(module, options))
    made = step.uses.get("made")
    try:
        if made is not None:
            produced: Artifact = module.write(source, task.artifacts[made[step.component]], options, context)
        else:
            produced = module.run(source, options, context)
    except EngineError as error:
        if not step.optional:
            raise
        return _refusal(source, workdir, error)
    if step.kind == "export":
        _check_declared(task, source, produced)
    return produced


def _refusal(source: Artifact, workdir: Path, error: EngineError) -> Artifact:
    """Write down why an engine does not take a graph: of several engines to choose from, that is no failure."""
    logger.info("refused: %s", error)
    path = workdir / "refused.txt"
    path.write_text(f"{error}\n")
    facts = {"reason": error.message}
    return Artifact(REFUSED, path, file_sha256(path), source.inputs, source.outputs, source.produced_by, facts)


def _select(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Measure the candidates and take the winner."""
    options = task.step.options
    rules_class = AutoEngine if task.step.method == "auto" else MustPay
    rules = rules_class.model_validate_json(json.dumps(options["rules"]))
    built = {one["label"]: task.artifacts[one["step"]] for one in options["candidates"]}
    refused = {label: str(one.metadata["reason"]) for label, one in built.items() if one.format == REFUSED}
    found = [
        Candidate(
            label=one["label"],
            artifact=built[one["label"]],
            engine=engines.METHODS[one["engine"]["method"]].Options.model_validate_json(json.dumps(one["engine"])),
            graph=one["graph"],
            compressed=one["compressed"],
            simplicity=rank,
        )
        for rank, one in enumerate(options["candidates"])
        if one["label"] not in refused
    ]
    recipe = task.recipe
    needs = {key for key in ("calibration", "validation") if getattr(recipe.data, key) is not None}
    context = _context(task, workdir, progress, needs=frozenset(needs))
    return choose.run(found, rules, context, left_out={**options["left_out"], **refused})


def _context(task: Task, workdir: Path, progress: Progress, *, needs: frozenset[str]) -> StepContext:
    name, recipe = task.step.component, task.recipe
    feeds, batches = calibration(task) if "calibration" in needs else (None, 0)
    scratch = Store(task.store).scratch(task.step.key) if {"training", "validation"} & needs else None
    context = StepContext(
        component=name,
        workdir=workdir,
        target=recipe.target,
        encoding=task.step.encoding,
        max_batch_size=recipe.components[name].serving.max_batch_size,
        seed=recipe.seed,
        threads=task.threads,
        examples=Examples(task),
        calibration=feeds,
        calibration_batches=batches,
        progress=progress,
        scratch=scratch,
        training=_training(task) if "training" in needs else None,
        fused=_fused(task) if "validation" in needs and task.step.kind not in TORCH_KINDS else None,
    )
    engine = recipe.engine_options(name)
    if not task.step.exclusive or engines.METHODS[method_of(engine)].unavailable(engine):
        return context
    return dataclasses.replace(context, timed=_timer(task, engine, context))


def _timer(task: Task, engine: MethodOptions, context: StepContext) -> Timed:
    """Return what times graphs of a component; PyTorch modules are exported first."""
    options = task.recipe.components[task.step.component].export

    def exported(artifact: Artifact, folder: Path) -> Path:
        folder.mkdir()
        module: Pass = export.METHODS[method_of(options)]
        return module.run(artifact, options, dataclasses.replace(context, workdir=folder)).path

    def measure(graphs: Mapping[str, Path | Artifact]) -> Mapping[str, LatencyEstimate]:
        with tempfile.TemporaryDirectory(prefix="mmdeploy-timed-") as folder:
            paths = {
                label: graph if isinstance(graph, Path) else exported(graph, Path(folder) / str(number))
                for number, (label, graph) in enumerate(graphs.items())
            }
            return timed(paths, engine, context)

    return measure


def _training(task: Task) -> TrainingSetup | None:
    """Set the model up around the component, upstream as the torch passes there left it."""
    if task.recipe.data.training is None or task.recipe.data.validation is None:
        return None
    upstream_made = {name: task.artifacts[step_id] for name, step_id in task.step.uses.get("torch", {}).items()}
    return RecipeTrainingSetup(task.recipe, task.step.component, upstream_made)


def _fused(task: Task) -> FusedOutput | None:
    """Open the ensemble around the component, on the validation split."""
    recipe, uses = task.recipe, task.step.uses
    if recipe.data.validation is None:
        return None
    graphs = Graphs(
        shipped={name: graph_path(task.artifacts[step_id]) for name, step_id in uses["shipped"].items()},
        exported={name: graph_path(task.artifacts[step_id]) for name, step_id in uses["original"].items()},
    )
    return FusedEnsemble(recipe, task.step.component, graphs, validation_samples(recipe), threads=task.threads)


def _torch_artifact(task: Task) -> Artifact:
    model, component = task.recipe.model, task.recipe.components[task.step.component]
    path = task.recipe.root / (model.weights or model.factory.partition(":")[0])
    return Artifact(
        format="torch",
        path=path,
        sha256=file_sha256(path) if path.is_file() else "",
        inputs=_declared(task.recipe, component.inputs),
        outputs=_declared(task.recipe, component.outputs),
        produced_by="recipe",
        metadata={
            "factory": model.factory,
            "root": str(task.recipe.root),
            "weights": str(model.weights) if model.weights else None,
            "module": component.module,
            "inputs": list(component.inputs),
            "outputs": list(component.outputs),
            "allow_pickle": model.allow_pickle,
        },
    )


def _declared(recipe: Recipe, wires: Mapping[str, Wire]) -> tuple[TensorSpec, ...]:
    """Return the specs that the recipe declares: at the wire, or at the ensemble's input that it leads to."""
    specs = []
    for name, wire in wires.items():
        source = recipe.inputs.get(wire.tensor)
        dtype, shape = wire.dtype or (source and source.dtype), wire.shape or (source and source.shape)
        if dtype and shape:
            specs.append(TensorSpec(name, dtype, tuple(shape)))
    return tuple(specs)


def _check_declared(task: Task, source: Artifact, graph: Artifact) -> None:
    """Compare what the recipe declares with what the exported graph really takes and gives.

    Raises:
        ExportError: Naming the first tensor that differs.
    """
    for side, declared, found in (("input", source.inputs, graph.inputs), ("output", source.outputs, graph.outputs)):
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
