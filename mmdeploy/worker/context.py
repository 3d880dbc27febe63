"""What a pass or an engine is given: the recipe's module where it starts from that, and its `StepContext`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy import engines, export
from mmdeploy.choice.graphs import timed
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
)
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.store import Store
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.engines.built_from import graph_path
from mmdeploy.model.torch_component import ComponentFacts
from mmdeploy.model.weight_files import files_of
from mmdeploy.recipe import sharing
from mmdeploy.recipe.cascade_stages import scored_in
from mmdeploy.worker.examples import Examples
from mmdeploy.worker.feeds import calibration, sample_set
from mmdeploy.worker.fused_output import FusedEnsemble, Graphs, Validation, recorded
from mmdeploy.worker.missing_training import MissingInTraining
from mmdeploy.worker.modalities import Modalities
from mmdeploy.worker.task import Task
from mmdeploy.worker.training_setup import HeldOut, RecipeTrainingSetup

if TYPE_CHECKING:
    from mmdeploy.recipe.declared import Wire
    from mmdeploy.recipe.schema import Recipe


def step_context(task: Task, workdir: Path, progress: Progress, *, needs: frozenset[str]) -> StepContext:
    """Set up what a step works with; of the recipe's data only what it ``needs``."""
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
        examples=(examples := Examples(task)),
        at_lengths=examples.at_lengths,
        calibration=feeds,
        calibration_batches=batches,
        progress=progress,
        scratch=scratch,
        training=_training(task) if "training" in needs else None,
        fused=_fused(task) if "validation" in needs and not task.step.sort.on_module else None,
    )
    engine = recipe.engine_options(name)
    if not task.step.exclusive or engines.METHODS.of(engine).unavailable(engine):
        return context
    return dataclasses.replace(context, timed=_timer(task, engine, context))


def _timer(task: Task, engine: MethodOptions, context: StepContext) -> Timed:
    """Return what times graphs of a component; PyTorch modules are exported first, unless the engine takes them."""
    options = task.recipe.components[task.step.component].export
    takes_modules = engines.METHODS.of(engine).CONSUMES == "torch"

    def consumed(graph: Path | Artifact, folder: Path) -> Path | Artifact:
        if isinstance(graph, Path):
            return graph
        folder.mkdir()
        module: Pass = export.METHODS.of(options)
        exported = module.run(graph, options, dataclasses.replace(context, workdir=folder))
        return with_specs(graph, exported) if takes_modules else exported.path

    def measure(graphs: Mapping[str, Path | Artifact]) -> Mapping[str, LatencyEstimate]:
        with temporary_folder("timed") as folder:
            paths = {
                label: consumed(graph, folder / str(number)) for number, (label, graph) in enumerate(graphs.items())
            }
            return timed(paths, engine, context)

    return measure


def with_specs(module: Artifact, exported: Artifact) -> Artifact:
    """Return a PyTorch module with the tensors of its graph: a recipe need not declare them."""
    return dataclasses.replace(module, inputs=exported.inputs, outputs=exported.outputs)


def _training(task: Task) -> TrainingSetup | None:
    """Set the model up around the component, upstream as the torch passes there left it."""
    validation = sample_set(task, "validation")
    if task.recipe.data.training is None or validation is None:
        return None
    upstream_made = {name: task.artifacts[step_id] for name, step_id in task.step.uses.get("torch", {}).items()}
    held_out = HeldOut(validation, sample_set(task, "evaluation"))
    rate = float(task.step.options.get("modality_dropout", 0.0))
    missing = MissingInTraining(Modalities.of(task), rate)
    around = scored_in(task.recipe, task.step.component)
    return RecipeTrainingSetup(around, task.step.component, held_out, upstream_made, missing)


def _fused(task: Task) -> FusedOutput | None:
    """Open the ensemble around the component, on the validation split."""
    recipe, uses = scored_in(task.recipe, task.step.component), task.step.uses
    validation = sample_set(task, "validation")
    if validation is None:
        return None
    graphs = Graphs(
        shipped={name: graph_path(task.artifacts[step_id]) for name, step_id in uses["shipped"].items()},
        exported={name: graph_path(task.artifacts[step_id]) for name, step_id in uses["original"].items()},
    )
    samples = Validation(validation.feeds(), validation.labels, source=validation.reference)
    answers = [task.artifacts[step_id].path for step_id in uses.get("answers", {}).values()]
    return FusedEnsemble(
        recipe,
        task.step.component,
        graphs,
        samples,
        threads=task.threads,
        modalities=Modalities.of(task),
        known=recorded(answers[0]) if answers else None,
    )


def recipe_module(task: Task) -> Artifact:
    """Describe a component's module as the recipe's factory and weights give it."""
    model, component = task.recipe.model, task.recipe.components[task.step.component]
    root = task.recipe.root
    path, *shards = files_of(root / model.weights) if model.weights else [root / model.factory.partition(":")[0]]
    return Artifact(
        format="torch",
        path=path,
        sha256=file_sha256(path) if path.is_file() else "",
        inputs=_declared(task.recipe, component.inputs),
        outputs=_declared(task.recipe, component.outputs),
        produced_by="recipe",
        metadata=as_metadata(
            ComponentFacts(
                factory=model.factory,
                root=root,
                weights=model.weights,
                prefix=model.prefix,
                adapters=model.adapters,
                module=component.module,
                inputs=tuple(component.inputs),
                outputs=tuple(component.outputs),
                allow_pickle=model.allow_pickle,
                **_apart(task.recipe, task.step.component),
            )
        ),
        beside=tuple(shard.name for shard in shards),
    )


def _apart(recipe: Recipe, name: str) -> dict[str, Any]:
    """Say which other components' modules this one must not share, and where weights change on either side."""
    others = sharing.apart(recipe.components, name)
    changes = {other: sharing.retrained(recipe.components, other) for other in (name, *(pair[0] for pair in others))}
    return {"apart": others, "retrained": tuple(pair[0] for pair in others if changes[name] or changes[pair[0]])}


def _declared(recipe: Recipe, wires: Mapping[str, Wire]) -> tuple[TensorSpec, ...]:
    """Return the specs that the recipe declares: at the wire, at its other end, or at the input that it leads to."""
    specs, writers = [], {one.tensor: one for part in recipe.components.values() for one in part.outputs.values()}
    for name, wire in wires.items():
        source = recipe.sources().get(wire.tensor) or writers.get(wire.tensor)
        dtype, shape = wire.dtype or (source and source.dtype), wire.shape or (source and source.shape)
        if dtype and shape:
            specs.append(recipe.tensor(name, dtype, shape))
    return tuple(specs)
