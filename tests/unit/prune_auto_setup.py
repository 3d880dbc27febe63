"""The redundant recipe's tower, as the search for a pruning ratio takes it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from fused_samples import TESTS
from recorded_sets import training_setup

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.planning.steps import Step
from mmdeploy.prune.auto import Options
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.worker.context import recipe_module
from mmdeploy.worker.task import Task

RECIPE = TESTS / "redundant_recipe/recipe.yaml"


def recipe() -> Recipe:
    """Load the recipe."""
    return load_recipe(RECIPE)


def source(loaded: Recipe) -> Artifact:
    """Return the tower as the recipe's factory gives it."""
    return recipe_module(Task(Step("tower/prune", "tower", "prune", "auto", {}, (), {}), loaded, Path(), {}, 1))


def context(loaded: Recipe, folder: Path, **changes: Any) -> StepContext:
    """Return the context of the step, with the real model around the tower."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "component": "tower", "workdir": folder, "target": loaded.target, "encoding": Encoding.UINT8_ASYMMETRIC,
        "max_batch_size": 8, "seed": 0, "threads": 1,
        "examples": lambda batch: {"values": np.random.default_rng(0).standard_normal((batch, 16)).astype(np.float32)},
        "training": training_setup(loaded, "tower"),
    }  # fmt: skip
    return StepContext(**(fields | changes))


def options(**fields: Any) -> Options:
    """Validate options as a recipe does."""
    given = {"method": "auto", "max_drop": 0.02, "ratios": [0.25, 0.5, 0.75, 0.875]}
    return Options.model_validate_json(json.dumps(given | fields))
