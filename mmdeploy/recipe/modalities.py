"""Inputs that a request may leave out: the branch of each, what stands in for it, and when it counts as missing.

An optional input's *branch* is every component, and every step of ``preprocess``, that depends on that input alone.
Its *embeddings* are the tensors of the branch that the rest of the ensemble, or the client, reads: where the input is
missing the branch is not run, and stand-ins take their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmdeploy.core.strings import BYTES
from mmdeploy.recipe.media import in_order
from mmdeploy.recipe.missing import Missing, Subset
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.wiring_order import order_with, sources_of


@dataclass(frozen=True)
class Branch:
    """What depends on an optional input alone.

    Attributes:
        input: The input.
        components: In topological order.
        embeddings: Tensors that the branch writes and others read.
        steps: Those of ``preprocess``, in order.
        sources: What the components read from outside: the input itself, or what the steps make of it.
        made: All that the steps make of it.
    """

    input: str
    components: tuple[str, ...]
    embeddings: tuple[str, ...]
    steps: tuple[str, ...]
    sources: tuple[str, ...]
    made: tuple[str, ...]


@dataclass(frozen=True)
class Detection:
    """When rows of an optional input that were sent count as missing.

    Attributes:
        sent: What is asked of what was sent, as `mmdeploy.triton.steps.modalities.holds_something` takes it.
        tensor: What ``made`` is asked of; None where nothing is.
        made: What is asked of a tensor that steps make of the input.
        invalid: Whether a row that a step refuses counts as missing.
    """

    sent: Mapping[str, Any] = field(default_factory=dict)
    tensor: str | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    invalid: bool = False

    @property
    def by_steps(self) -> bool:
        """Whether steps run before it is known."""
        return self.tensor is not None or self.invalid


def optional_inputs(recipe: Recipe) -> dict[str, Missing]:
    """Return what stands in for each input that may be left out."""
    return {name: spec.missing for name, spec in recipe.inputs.items() if spec.optional and spec.missing is not None}


def presence_tensors(recipe: Recipe) -> dict[str, str]:
    """Return the presence tensor of each optional input that names one."""
    return {name: one.presence for name, one in optional_inputs(recipe).items() if one.presence is not None}


def subsets(recipe: Recipe) -> tuple[Subset, ...]:
    """Return the subsets of modalities that are judged besides all together: the recipe's, or each input left out."""
    if recipe.subsets is not None:
        return recipe.subsets
    optional = optional_inputs(recipe)
    alone = len(optional) == len(recipe.inputs) == 1
    return () if alone else tuple(Subset(without=(name,)) for name in optional)


def branches(recipe: Recipe) -> dict[str, Branch]:
    """Return the branch of each optional input; one that nothing depends on alone has no components."""
    depends = dependencies(recipe)
    return {name: _branch(recipe, name, depends) for name in optional_inputs(recipe)}


def detection(recipe: Recipe, branch: Branch) -> Detection:
    """Return when a branch's input counts as missing although it was sent."""
    detect = optional_inputs(recipe)[branch.input].detect
    if detect is None:
        return Detection()
    empty = {"empty": True} if detect.empty else {}
    looked_at = detect.tensor or _usual_tensor(recipe, branch)
    if looked_at == branch.input or not detect.thresholds:
        return Detection({**detect.thresholds, **empty}, invalid=detect.invalid)
    return Detection(empty, looked_at, detect.thresholds, detect.invalid)


def _usual_tensor(recipe: Recipe, branch: Branch) -> str:
    """Return what thresholds look at where none is named; the input of a file where several could be meant."""
    holds_numbers = recipe.inputs[branch.input].dtype != BYTES
    return branch.input if holds_numbers or len(branch.sources) != 1 else branch.sources[0]


def in_branches(recipe: Recipe) -> frozenset[str]:
    """Return the components that belong to an optional input's branch."""
    return frozenset(name for branch in branches(recipe).values() for name in branch.components)


def left_out(recipe: Recipe, names: Iterable[str]) -> frozenset[str]:
    """Return what a sample lacks that lacks some inputs: those, and what steps would make of them."""
    found = branches(recipe)
    return frozenset(tensor for name in names for tensor in (name, *found[name].sources))


def sees_stand_ins(recipe: Recipe, component: str) -> bool:
    """Say whether what a component is given may be a stand-in, or made from one."""
    found = {tensor for branch in branches(recipe).values() for tensor in branch.embeddings}
    reading, order = set[str](), order_with(sources_of(recipe.components))
    for name in order:
        part = recipe.components[name]
        if any(wire.tensor in found for wire in part.inputs.values()):
            reading.add(name)
            found |= {wire.tensor for wire in part.outputs.values()}
    return component in reading


def _branch(recipe: Recipe, name: str, depends: Mapping[str, set[str]]) -> Branch:
    parts = recipe.components
    order = order_with(sources_of(parts))
    inside = tuple(one for one in order if needs(read_by(recipe, one), depends) == {name})
    steps = _steps(recipe, name, depends)
    made = tuple(tensor for step in steps for tensor in recipe.preprocess[step].tensors.values())
    within = {tensor for one in inside for tensor in read_by(recipe, one)}
    read = {tensor for one in parts if one not in inside for tensor in read_by(recipe, one)} | {*recipe.model_outputs}
    written = [wire.tensor for one in inside for wire in parts[one].outputs.values()]
    return Branch(
        name,
        inside,
        tuple(tensor for tensor in written if tensor in read),
        steps,
        tuple(tensor for tensor in (name, *made) if tensor in within),
        made,
    )


def read_by(recipe: Recipe, component: str) -> tuple[str, ...]:
    """Return the tensors that a component reads."""
    return tuple(wire.tensor for wire in recipe.components[component].inputs.values())


def _steps(recipe: Recipe, name: str, depends: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return the steps of ``preprocess`` that depend on an input alone, in order."""
    steps = recipe.preprocess
    return tuple(step for step in in_order(steps) if needs(steps[step].inputs.values(), depends) == {name})


def needs(tensors: Iterable[str], depends: Mapping[str, set[str]]) -> set[str]:
    """Return the inputs that some tensors depend on; ``depends`` is what `dependencies` found."""
    return set[str]().union(*(depends.get(tensor, set()) for tensor in tensors))


def dependencies(recipe: Recipe) -> dict[str, set[str]]:
    """Return, for each tensor, the inputs that it depends on, presence tensors among them."""
    found = {name: {name} for name in (*recipe.inputs, *presence_tensors(recipe).values())}
    for step in (recipe.preprocess[name] for name in in_order(recipe.preprocess)):
        found |= dict.fromkeys(step.tensors.values(), needs(step.inputs.values(), found))
    for name in order_with(sources_of(recipe.components)):
        written = [wire.tensor for wire in recipe.components[name].outputs.values()]
        found |= dict.fromkeys(written, needs(read_by(recipe, name), found))
    return found
