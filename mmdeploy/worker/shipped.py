"""What a component ships: the engine that was chosen by measuring, or the one that its recipe names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdeploy import engines
from mmdeploy.choice.record import engine_choice
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import MethodOptions

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe


def shipped_engine(recipe: Recipe, component: str, artifact: Artifact) -> MethodOptions:
    """Return the options of the engine that a component ships: the one chosen by measuring, or the recipe's."""
    choice = engine_choice(artifact)
    return recipe.engine_options(component) if choice is None else engines.METHODS.read(choice.engine, recipe.root)
