"""The plan of a build that is under way: made anew as it becomes known what the recipe's code reads.

Before a callable has run nobody can tell what it reads, so the steps that run it have no final key. When the first of
them is done its reads are known, and with them the keys of all others. What was stored under a key that a later step
made more exact (it saw the same code read one file more) gets the exact key, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.store import Store
from mmdeploy.planning.known_plan import made, take_plan
from mmdeploy.planning.recipe_inputs import differs_in_reads_only, reads_recipe, take_inputs
from mmdeploy.planning.steps import Goal, Step, Wanted
from mmdeploy.recipe.schema import Recipe


class LivePlan:
    """The plan of one build.

    Attributes:
        fingerprints: What it was made of.
        plan: As it is known now.
    """

    def __init__(self, recipe: Recipe, store: Store, goal: Goal, upto: Wanted | None) -> None:
        """Make the plan; where ``upto`` names steps only those and what they need.

        Raises:
            UsageError: If there is no such step.
        """
        self._recipe, self._store, self._goal, self._upto = recipe, store, goal, upto
        self.fingerprints, self.plan = take_plan(recipe, store, goal, upto)

    def step(self, step_id: str) -> Step:
        """Return a step as it is known now."""
        return self.plan.step(step_id)

    def learn(self, step_id: str) -> bool:
        """Make the plan anew after a step that has run code of the recipe; say whether it was one.

        What it read is known now and, after a set of samples was recorded, what that holds: keys of others are of that.
        """
        if not reads_recipe(self.step(step_id).identity):
            return False
        self._store.facts.reload()
        self.fingerprints = replace(self.fingerprints, inputs=take_inputs(self._recipe, self._store))
        self.plan = made(self._recipe, self.fingerprints, self._store, self._goal, upto=self._upto)
        return True

    def remember(self, step: Step) -> None:
        """Record what a step was made of, to say the next time what changed."""
        self._store.remember(self.plan.recipe, step.id, step.identity, self.plan.parts_of(step))

    def settle(self, artifacts: Mapping[str, Artifact]) -> list[str]:
        """Give what was made or reused under a less exact key the exact one, too.

        Args:
            artifacts: By step id, as they lie in the store.

        Returns:
            The ids of the steps concerned.
        """
        settled = []
        for step in self.plan.steps:
            artifact = artifacts.get(step.id)
            stored = artifact.path.parent.name if artifact is not None else step.key
            if stored == step.key:
                continue
            before = self._store.identity(stored)
            if before is not None and differs_in_reads_only(before, step.identity):
                self._store.readdress(stored, step.key, step.identity)
                self.remember(step)
                settled.append(step.id)
        return settled
