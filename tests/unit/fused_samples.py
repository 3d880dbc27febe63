"""Recipes as float graphs, with labelled samples: what the fused output is scored on."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.data import samples as data
from mmdeploy.model import torch_model
from mmdeploy.planning.steps import Step
from mmdeploy.recipe.schema import Recipe
from mmdeploy.worker import feeds, run_step
from mmdeploy.worker.fused_output import FusedEnsemble, Graphs, Samples
from mmdeploy.worker.task import Task

TESTS = Path(__file__).parents[1]
RECIPE = TESTS / "tiny_recipe/recipe.yaml"
OUTLIER_RECIPE = TESTS / "outlier_recipe/recipe.yaml"


def exported(recipe: Recipe, component: str, folder: Path) -> Artifact:
    """Export a component of a recipe with the real exporter."""
    folder.mkdir(parents=True, exist_ok=True)
    step = Step(f"{component}/export", component, "export", "onnx", {"method": "onnx"}, (), {})
    task = Task(step, recipe, folder, {}, 1)
    return run_step._run(task, folder, lambda *_: None)


def original_answers(recipe: Recipe, samples: dict[str, Any]) -> dict[str, Any]:
    """Run the PyTorch model: an implementation that owes nothing to the code under test."""
    parts = [
        torch_model.WiredModule(name, part.module, *feeds.wires(recipe, name))
        for name, part in recipe.components.items()
    ]
    model = torch_model.load_model(recipe.model.factory, root=recipe.root, weights=None)
    return torch_model.TorchChain(model, parts).run(samples)


def samples_of(count: int = 96, seed: int = 3) -> dict[str, Any]:
    """Draw inputs of the two towers."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((count, 8)).astype(np.float32) for name in ("a", "b")}


def noisy_labels(logits: Any, wrong: int) -> Any:
    """Return what the model answers, but for the first ``wrong`` samples."""
    labels = logits.argmax(axis=1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return labels


def judged(
    recipe: Recipe, component: str, graphs: dict[str, Path], shipped: dict[str, Path] | None = None
) -> FusedEnsemble:
    """Return the ensemble around a component, on the recipe's own validation split."""
    specs, ranges = feeds.ensemble_inputs(recipe)
    samples, labels = data.load_evaluation(str(recipe.data.validation), root=recipe.root, specs=specs, ranges=ranges)
    return FusedEnsemble(recipe, component, Graphs(shipped or graphs, graphs), Samples(samples, labels))


def search_context(recipe: Recipe, component: str, folder: Path, **changes: Any) -> StepContext:
    """Return the context of a step on a component that only ensemble inputs feed, with real calibration data."""
    folder.mkdir(parents=True, exist_ok=True)
    specs, ranges = feeds.ensemble_inputs(recipe)
    batches = data.batches(str(recipe.data.calibration), root=recipe.root, specs=specs, batch_size=16, ranges=ranges)
    context = StepContext(
        component=component,
        workdir=folder,
        target=recipe.target,
        encoding=Encoding.UINT8_ASYMMETRIC,
        max_batch_size=8,
        seed=0,
        threads=1,
        examples=lambda batch: next(iter(batches)),
        calibration=lambda: iter(batches),
        calibration_batches=4,
    )
    return dataclasses.replace(context, **changes)
