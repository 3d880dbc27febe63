"""The two-towers recipe as float graphs, with labelled samples: what the fused output is scored on."""

from pathlib import Path
from typing import Any

import numpy as np

from mmdeploy import torch_model, worker
from mmdeploy.artifact import Artifact
from mmdeploy.recipe import Recipe
from mmdeploy.steps import Step

RECIPE = Path(__file__).parents[1] / "tiny_recipe/recipe.yaml"


def exported(recipe: Recipe, component: str, folder: Path) -> Artifact:
    """Export a component of a recipe with the real exporter."""
    folder.mkdir(parents=True, exist_ok=True)
    step = Step(f"{component}/export", component, "export", "onnx", {"method": "onnx"}, (), {})
    task = worker.Task(step, recipe, folder, {}, 1)
    return worker._run(task, folder, lambda *_: None)


def original_answers(recipe: Recipe, feeds: dict[str, Any]) -> dict[str, Any]:
    """Run the PyTorch model: an implementation that owes nothing to the code under test."""
    parts = [
        torch_model.WiredModule(name, part.module, *worker._wires(recipe, name))
        for name, part in recipe.components.items()
    ]
    model = torch_model.load_model(recipe.model.factory, root=recipe.root, weights=None)
    return torch_model.TorchChain(model, parts).run(feeds)


def samples_of(count: int = 96, seed: int = 3) -> dict[str, Any]:
    """Draw inputs of the two towers."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((count, 8)).astype(np.float32) for name in ("a", "b")}


def noisy_labels(logits: Any, wrong: int) -> Any:
    """Return what the model answers, but for the first ``wrong`` samples."""
    labels = logits.argmax(axis=1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return labels
