"""The step that makes stand-ins for inputs that may be missing, and who is fed with them.

A component is fed with stand-ins where what it reads may be one, or may be made from one: its calibration then covers
the subsets of modalities that the recipe declares.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mmdeploy.planning.kinds import STAND_IN
from mmdeploy.planning.steps import STAND_IN_SAMPLES, STAND_INS, Step
from mmdeploy.recipe.modalities import in_branches, optional_inputs, sees_stand_ins
from mmdeploy.recipe.sharing import callers

if TYPE_CHECKING:
    from mmdeploy.planning.identities import Identities
    from mmdeploy.planning.planned_sets import PlannedSets
    from mmdeploy.recipe.schema import Recipe


class PlannedStandIns:
    """Adds the step that makes stand-ins to the steps of a plan, as others ask for it."""

    def __init__(self, recipe: Recipe, identities: Identities, sets: PlannedSets, steps: dict[str, Step]) -> None:
        """Take what the step is added to."""
        self._recipe, self._identities, self._sets, self._steps = recipe, identities, sets, steps

    def read(self, name: str, reads: Collection[str]) -> tuple[str, ...]:
        """Add the step if a step on a component that reads sets of samples is fed with stand-ins; return its id.

        Whoever trains or judges runs the whole ensemble, on samples that may lack inputs themselves.
        """
        whole = "training" in reads or ("validation" in reads and self._recipe.data.validation is not None)
        return self.add() if whole or self._fed(name, reads) else ()

    def identity(self, name: str, reads: Collection[str]) -> dict[str, str]:
        """Name the subsets of modalities that such a step is fed with."""
        return self._identities.subsets() if self._fed(name, reads) else {}

    def add(self) -> tuple[str, ...]:
        """Add the step where the recipe has inputs that may be missing; return its id."""
        recipe, identities = self._recipe, self._identities
        strategies = {one.strategy for one in optional_inputs(recipe).values()}
        if strategies and STAND_INS not in self._steps:
            around = sorted(in_branches(recipe))
            reads = {"calibration"} if "mean" in strategies else set[str]()
            options, needs = {"samples": STAND_IN_SAMPLES}, self._sets.read(reads)
            identity = {
                **identities.model(*(recipe.components if "learned" in strategies else around)),
                "wiring": identities.wiring(*around),
                "seed": str(recipe.seed),
                **identities.missing(),
                **self._sets.inputs(needs, reads, options),
                **identities.made_by(STAND_IN),
            }
            step = Step(STAND_INS, "original", STAND_IN.name, "torch", options, needs, identity)
            self._steps[STAND_INS] = step
        return (STAND_INS,) if strategies else ()

    def _fed(self, name: str, reads: Collection[str]) -> bool:
        recipe = self._recipe
        return bool(reads) and any(sees_stand_ins(recipe, one) for one in callers(recipe.components, name))
