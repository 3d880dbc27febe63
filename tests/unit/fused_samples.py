"""Recipes as float graphs, with labelled samples: what the fused output is scored on."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from recorded_sets import recorded_set

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.model import torch_model
from mmdeploy.planning.steps import Step
from mmdeploy.recipe.schema import Recipe
from mmdeploy.worker import feeds, run_step
from mmdeploy.worker.fused_output import FusedEnsemble, Graphs, Validation
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
    with tempfile.TemporaryDirectory() as folder:  # the mapping keeps the files after they are gone
        recorded = recorded_set(recipe, "validation", Path(folder))
    samples = Validation(recorded.feeds(), recorded.labels)
    return FusedEnsemble(recipe, component, Graphs(shipped or graphs, graphs), samples)


def search_context(recipe: Recipe, component: str, folder: Path, **changes: Any) -> StepContext:
    """Return the context of a step on a component that only ensemble inputs feed, with real calibration data."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as sets:  # the mapping keeps the files after they are gone
        samples = recorded_set(recipe, "calibration", Path(sets))
    context = StepContext(
        component=component,
        workdir=folder,
        target=recipe.target,
        encoding=Encoding.UINT8_ASYMMETRIC,
        max_batch_size=8,
        seed=0,
        threads=1,
        examples=lambda batch: samples.batch(0, 16),
        calibration=lambda: samples.batches(16),
        calibration_batches=4,
    )
    return dataclasses.replace(context, **changes)
