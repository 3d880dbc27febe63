"""What a step's own process is given: the step, the recipe, and the artifacts that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Artifact
from mmdeploy.planning.steps import Step

if TYPE_CHECKING:
    from mmdeploy.planning.recipe_inputs import RecipeInputs
    from mmdeploy.recipe.schema import Recipe


@dataclass(frozen=True)
class Task:
    """One step with all it needs; it is pickled to the worker.

    Attributes:
        step: The step.
        recipe: The whole recipe: a component's inputs may come from other components.
        store: Root of the store.
        artifacts: Artifacts of the steps that it needs, by step id.
        threads: Threads that it may use.
        processes: Processes that a step that trains runs on.
        inputs: What the recipe's code and files were when the step was planned; None leaves unnoticed that they change.
        fresh: Whether to run it although the store may have its result.
    """

    step: Step
    recipe: Recipe
    store: Path
    artifacts: Mapping[str, Artifact]
    threads: int
    processes: int = 1
    inputs: RecipeInputs | None = None
    fresh: bool = False
