"""Who answers first in a cascade, and who is asked then.

The *early* components are those that the condition and the early answers depend on. All others are the *rest*: they may
read what early ones wrote, and are asked together, as one model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.recipe.declared import Wire
from mmdeploy.recipe.wiring_order import sources_of

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Component, Recipe
    from mmdeploy.recipe.yaml_tree import Keys


@dataclass(frozen=True)
class Stages:
    """The components of a cascade, each in the order of the recipe.

    Attributes:
        early: What the condition and the early answers depend on.
        rest: All others.
        early_only: Those of the early ones that nothing of the rest depends on.
        read: Tensors that the step which decides reads for itself: of the condition, and early answers.
    """

    early: tuple[str, ...]
    rest: tuple[str, ...]
    early_only: tuple[str, ...]
    read: tuple[str, ...]


def stages(recipe: Recipe) -> Stages:
    """Return which components are early and which the rest; the recipe has a cascade, and its condition is one."""
    from mmdeploy.triton.steps.condition import tensors_of  # numpy, which a recipe without a cascade does not need

    assert recipe.cascade is not None
    read = tuple(dict.fromkeys((*tensors_of(recipe.cascade.when), *recipe.cascade.answers.values())))
    parts, sources = recipe.components, sources_of(recipe.components)
    early = _before(sources, writers(parts, read))
    rest = tuple(name for name in parts if name not in early)
    needed = _before(sources, set(rest))
    return Stages(
        tuple(name for name in parts if name in early),
        rest,
        tuple(name for name in parts if name in early and name not in needed),
        read,
    )


def writers(components: dict[str, Component], tensors: tuple[str, ...]) -> set[str]:
    """Return the components that write any of some tensors."""
    return {name for name, part in components.items() if any(wire.tensor in tensors for wire in part.outputs.values())}


def reads(recipe: Recipe) -> Iterator[tuple[Keys, str]]:
    """Give each tensor that the cascade reads, with its place; of a condition that is none, nothing."""
    if recipe.cascade is None:
        return
    from mmdeploy.triton.steps.condition import ConditionError, tensors_of

    yield from ((("cascade", "answers", output), tensor) for output, tensor in recipe.cascade.answers.items())
    try:
        yield from ((("cascade", "when"), tensor) for tensor in tensors_of(recipe.cascade.when))
    except ConditionError:
        return  # told as such


def scored_in(recipe: Recipe, component: str) -> Recipe:
    """Return the ensemble in which a component is scored and trained: where it only answers early, that of the early.

    There the early components are all, and what answers early has the names of the outputs.
    """
    if recipe.cascade is None:
        return recipe
    found = stages(recipe)
    same = {name for name, part in recipe.components.items() if part.module == recipe.components[component].module}
    if not same <= {*found.early_only}:
        return recipe
    names = {early: output for output, early in recipe.cascade.answers.items()}
    parts = {name: _renamed(recipe.components[name], names) for name in found.early}
    return recipe.model_copy(update={"components": parts, "cascade": None})


def without(recipe: Recipe) -> Recipe:
    """Return the plain ensemble, of which every row is answered by the rest; a recipe without a cascade as it is."""
    if recipe.cascade is None:
        return recipe
    only = stages(recipe).early_only
    parts = {name: part for name, part in recipe.components.items() if name not in only}
    return recipe.model_copy(update={"components": parts, "cascade": None})


def _renamed(part: Component, names: dict[str, str]) -> Component:
    def side(wires: dict[str, Wire]) -> dict[str, Wire]:
        return {
            key: wire.model_copy(update={"tensor": names.get(wire.tensor, wire.tensor)}) for key, wire in wires.items()
        }

    return part.model_copy(update={"inputs": side(part.inputs), "outputs": side(part.outputs)})


def _before(sources: dict[str, set[str]], names: set[str]) -> set[str]:
    """Return some components and all that feed them."""
    found, waiting = set(names), list(names)
    while waiting:
        new = sources[waiting.pop()] - found
        found |= new
        waiting += new
    return found
