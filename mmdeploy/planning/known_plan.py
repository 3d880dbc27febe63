"""The plan of a recipe with all that is known: by this machine first, and, where that is not enough, by others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.recipe_inputs import take_inputs
from mmdeploy.planning.steps import Fingerprints, Goal, Plan, Wanted, recorded_in

if TYPE_CHECKING:
    from mmdeploy.core.store import Store
    from mmdeploy.recipe.schema import Recipe


def take_plan(
    recipe: Recipe, store: Store, goal: Goal = "build", upto: Wanted | None = None
) -> tuple[Fingerprints, Plan]:
    """Return the plan of a recipe, and what it is made of.

    Where all of it lies on this machine, nothing is asked of the place that machines share.

    Args:
        recipe: The recipe.
        store: What is known, and what has been made.
        goal: What the plan is for.
        upto: Gives the ids of the only steps that are wanted; what they need comes with them.

    Raises:
        UsageError: If there is no step of an id, or a file cannot be read.
        StoreError: If the shared place cannot be asked.
    """
    here = store.apart()
    fingerprints = take_fingerprints(recipe, here)
    plan = made(recipe, fingerprints, here, goal, upto=upto)
    if store.shared is None or all(store.is_here(step.key) for step in plan.steps):
        return fingerprints, plan
    fingerprints = replace(fingerprints, inputs=take_inputs(recipe, store))
    return fingerprints, made(recipe, fingerprints, store, goal, upto=upto)


def made(recipe: Recipe, fingerprints: Fingerprints, store: Store, goal: Goal, *, upto: Wanted | None) -> Plan:
    """Return the plan that fingerprints give, or of it what is wanted.

    Raises:
        UsageError: If there is no step of an id.
    """
    plan = make_plan(recipe, fingerprints, goal, contents=recorded_in(store))
    return plan if upto is None else plan.upto(*upto(plan))
