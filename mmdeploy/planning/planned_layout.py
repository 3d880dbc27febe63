"""The steps of a layout of one model: what ships of all components composed, and the FP32 references of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdeploy import engines
from mmdeploy.planning.chains import candidates
from mmdeploy.planning.kinds import COMPOSE
from mmdeploy.planning.steps import Step
from mmdeploy.recipe.layout import SINGLE, may_be_single

if TYPE_CHECKING:
    from mmdeploy.planning.identities import Identities
    from mmdeploy.planning.planned_sets import PlannedSets
    from mmdeploy.recipe.schema import Recipe

#: Id of the step that composes what ships, and of the one that composes what it is compared with.
SINGLE_ENGINE, SINGLE_REFERENCE = f"{SINGLE}/engine", f"{SINGLE}/reference"


def add_single(recipe: Recipe, identities: Identities, sets: PlannedSets, steps: dict[str, Step]) -> None:
    """Add the steps that compose components, where the recipe wants one model of them.

    Args:
        recipe: The recipe.
        identities: Parts of keys.
        sets: The recipe's sets of samples.
        steps: What is planned so far: all that components ship.
    """
    if not may_be_single(recipe):
        return
    modules = [engines.METHODS.of(recipe.engine_options(name)) for name in recipe.components]
    modules += [engines.METHODS.of(one.options) for name in recipe.components for one in candidates(recipe, name)]
    used = list({module.__name__: module for module in modules}.values())
    for step_id in (SINGLE_ENGINE, SINGLE_REFERENCE):
        made = {name: f"{name}/{step_id.removeprefix(f'{SINGLE}/')}" for name in recipe.components}
        if not all(one in steps for one in made.values()):
            continue  # no gates, or an engine that cannot run here: then there is no reference
        needs = (*dict.fromkeys(made.values()), *sets.read())
        identity = {
            "target": str(recipe.target),
            "max_batch_size": str(recipe.max_batch_size),
            "layout": recipe.layout,
            "wiring": identities.wiring(*recipe.components),
            "outputs": " ".join(recipe.model_outputs),
            **identities.inputs(),
            **sets.inputs(needs),
            **identities.made_by(COMPOSE, also=used),
        }
        uses: Mapping[str, Mapping[str, str]] = {"composed": made}
        options = {"layout": recipe.layout}
        step = Step(step_id, SINGLE, COMPOSE.name, SINGLE, options, needs, identity, uses)
        steps[step_id] = step
