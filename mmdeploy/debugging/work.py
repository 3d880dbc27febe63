"""What the process that compares is given: the component's graphs and engines, and how to feed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Artifact
from mmdeploy.debugging.figures import Tolerance
from mmdeploy.planning.steps import Step

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.worker.task import Task


@dataclass(frozen=True)
class DebugWork:
    """A component to compare; it is pickled to the process that does.

    Attributes:
        recipe: The whole recipe.
        component: The component.
        steps: Its steps that were made or tried, in the order of the build.
        artifacts: What was made, by step id; upstream components' too.
        failed: What a step of it failed with.
        store: Root of the store.
        folder: Where reproductions are written.
        samples: Samples to compare on.
        tolerance: The user's; None for those that suit each form.
        threads: Threads to use.
    """

    recipe: Recipe
    component: str
    steps: tuple[Step, ...]
    artifacts: Mapping[str, Artifact]
    store: Path
    folder: Path
    failed: Mapping[str, str] = field(default_factory=dict)
    samples: int = 16
    tolerance: Tolerance | None = None
    threads: int = 1

    def task(self, step: Step) -> Task:
        """Return a step as the worker takes it."""
        from mmdeploy.worker.task import Task

        return Task(step, self.recipe, self.store, self.artifacts, self.threads)
