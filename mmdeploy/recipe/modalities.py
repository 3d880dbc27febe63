"""Inputs that a request may leave out: the branch of each, what stands in for it, and what can be wrong with that.

An optional input's *branch* is every component that depends on that input alone. Its *embeddings* are the tensors of
the branch that the rest of the ensemble, or the client, reads: where the input is missing the branch is not run, and
stand-ins take their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from mmdeploy.core.errors import did_you_mean
from mmdeploy.gates import graceful
from mmdeploy.recipe.declared import InputSpec, plain_shape
from mmdeploy.recipe.finding import Finding
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
    """

    input: str
    components: tuple[str, ...]
    embeddings: tuple[str, ...]


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
    return {name: _branch(recipe, name) for name in optional_inputs(recipe)}


def in_branches(recipe: Recipe) -> frozenset[str]:
    """Return the components that belong to an optional input's branch."""
    return frozenset(name for branch in branches(recipe).values() for name in branch.components)


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


def _branch(recipe: Recipe, name: str) -> Branch:
    depends = _dependencies(recipe)
    order = order_with(sources_of(recipe.components))
    inside = tuple(component for component in order if depends[component] == {name})
    written = [wire.tensor for component in inside for wire in recipe.components[component].outputs.values()]
    read = {
        wire.tensor
        for component, part in recipe.components.items()
        if component not in inside
        for wire in part.inputs.values()
    }
    return Branch(name, inside, tuple(tensor for tensor in written if tensor in read or tensor in recipe.outputs))


def _dependencies(recipe: Recipe) -> dict[str, set[str]]:
    """Return, for each component, the inputs that it depends on, presence tensors among them."""
    known = {*recipe.inputs, *recipe.sources(), *presence_tensors(recipe).values()}
    of_tensor: dict[str, set[str]] = {name: {name} for name in known}
    found: dict[str, set[str]] = {}
    for name in order_with(sources_of(recipe.components)):
        component = recipe.components[name]
        found[name] = set[str]().union(*(of_tensor.get(wire.tensor, set()) for wire in component.inputs.values()))
        of_tensor |= {wire.tensor: found[name] for wire in component.outputs.values()}
    return found


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what is wrong with inputs that may be left out, and with the subsets that gates judge."""
    for name, spec in recipe.inputs.items():
        place = ("inputs", name)
        if spec.optional and spec.missing is None:
            yield Finding((*place, "optional"), "say what stands in for it: missing: {strategy: mean}")
        if spec.missing is not None and not spec.optional:
            yield Finding((*place, "missing"), "belongs to an input that may be left out: say optional: true as well")
    try:
        order_with(sources_of(recipe.components))
    except ValueError:  # a cycle, which is said elsewhere
        return
    for name, missing in optional_inputs(recipe).items():
        yield from _branch_findings(recipe, name)
        yield from _presence_findings(recipe, name, missing)
        yield from _strategy_findings(recipe, name, missing)
        yield from _detect_findings(name, recipe.inputs[name], missing)
        yield from _name_findings(recipe, name)
    yield from _subset_findings(recipe)
    yield from _gate_findings(recipe)
    yield from _dropout_findings(recipe)


def _branch_findings(recipe: Recipe, name: str) -> Iterator[Finding]:
    branch, depends = _branch(recipe, name), _dependencies(recipe)
    place = ("inputs", name, "optional")
    readers = [
        component
        for component, part in recipe.components.items()
        if any(wire.tensor == name for wire in part.inputs.values())
    ]
    for reader in readers:
        if reader not in branch.components:
            others = ", ".join(repr(other) for other in sorted(depends[reader] - {name}))
            message = (
                f"cannot be left out: {reader!r} reads {name!r} and depends on {others} too, and a stand-in takes the "
                f"place of what depends on {name!r} alone; give it an encoder of its own"
            )
            yield Finding(place, message, involves=(("components", reader, "inputs"),), needs_all=True)
    if branch.components and len(branch.components) == len(recipe.components):
        message = (
            f"cannot be left out: all components depend on {name!r} alone, so nothing would be left to answer with a "
            "stand-in"
        )
        yield Finding(place, message, needs_all=True)


def _presence_findings(recipe: Recipe, name: str, missing: Missing) -> Iterator[Finding]:
    presence, place = missing.presence, ("inputs", name, "missing", "presence")
    if presence is None:
        return
    readers = [
        component
        for component, part in recipe.components.items()
        if any(wire.tensor == presence for wire in part.inputs.values())
    ]
    embeddings = _branch(recipe, name).embeddings
    heads = [
        component
        for component in readers
        if any(wire.tensor in embeddings for wire in recipe.components[component].inputs.values())
    ]
    if not readers:
        read = [wire.tensor for part in recipe.components.values() for wire in part.inputs.values()]
        message = (
            f"no component reads {presence!r}, by which a head would know that {name!r} is missing; wire an input of "
            f"the head to it, or take another strategy; {did_you_mean(presence, read)}"
        )
        yield Finding(place, message, needs_all=True)
    elif missing.strategy == "skip" and not heads:
        shown = " and ".join(map(repr, readers))
        message = (
            f"skip: {shown} reads {presence!r} but none of the embeddings of {name!r} "
            f"({', '.join(embeddings) or 'none'}): whoever reads those leaves nothing out; wire both to the head"
        )
        yield Finding(place, message, needs_all=True)


def _strategy_findings(recipe: Recipe, name: str, missing: Missing) -> Iterator[Finding]:
    place = ("inputs", name, "missing")
    if missing.strategy == "mean" and recipe.data.calibration is None:
        message = "mean is that of the calibration samples' embeddings: name them in data.calibration"
        yield Finding((*place, "strategy"), message, involves=(("data", "calibration"),))
    embeddings = _branch(recipe, name).embeddings
    if missing.strategy == "learned" and len(embeddings) > 1:
        message = (
            f"learned is one tensor, and the branch of {name!r} writes {len(embeddings)} that others read "
            f"({', '.join(embeddings)}): take another strategy"
        )
        yield Finding((*place, "strategy"), message, needs_all=True)
    if missing.strategy != "mean":
        return
    for component in _branch(recipe, name).components:
        for key, wire in recipe.components[component].outputs.items():
            if wire.tensor in embeddings and wire.dtype is not None and not wire.dtype.startswith("FP"):
                message = f"mean of {wire.tensor!r}, which is {wire.dtype}, says nothing: take zeros, learned or skip"
                involves = (("components", component, "outputs", key),)
                yield Finding((*place, "strategy"), message, involves=involves)


def _detect_findings(name: str, spec: InputSpec, missing: Missing) -> Iterator[Finding]:
    detect, place = missing.detect, ("inputs", name, "missing", "detect")
    if detect is None:
        return
    numeric = str(spec.dtype) not in ("BOOL", "BYTES")
    for key in ("min_std", "min_rms"):
        limit = getattr(detect, key)
        if limit is None:
            continue
        if not numeric:
            yield Finding((*place, key), f"says nothing about {spec.dtype}: only numbers have it; take it out")
        elif key == "min_std" and all(size == 1 for size in plain_shape(spec.shape)):
            yield Finding((*place, key), "the standard deviation of one value is 0: every row would be missing")
        elif spec.range is not None:
            low, high = spec.range
            most = (high - low) / 2 if key == "min_std" else max(abs(low), abs(high))
            if limit > most:
                message = (
                    f"{limit:g} is out of reach: values within [{low:g}, {high:g}] come to {most:g} at most, so every "
                    "row would be missing"
                )
                yield Finding((*place, key), message, involves=(("inputs", name, "range"),))
    if detect.empty and str(spec.dtype) != "BYTES" and all(size > 0 for size in plain_shape(spec.shape)):
        message = f"no row of {list(spec.shape)} is empty: empty is for strings and for sizes that vary; take it out"
        yield Finding((*place, "empty"), message)


def _name_findings(recipe: Recipe, name: str) -> Iterator[Finding]:
    """Find names that the ensemble needs for itself."""
    from mmdeploy.triton.steps.modalities import marker  # which imports numpy; validating has no need of it

    mark, presence = marker(name), presence_tensors(recipe).get(name)
    taken: dict[str, tuple[str | int, ...]] = {other: ("inputs", other) for other in recipe.inputs}
    for component, part in recipe.components.items():
        taken |= {wire.tensor: ("components", component, "outputs", key) for key, wire in part.outputs.items()}
    if presence is not None:
        taken.setdefault(presence, ("inputs", name, "missing", "presence"))
        if presence in recipe.outputs:
            message = f"{presence!r} is what tells the head, no answer: take it out of the outputs"
            yield Finding(("outputs", presence), message)
    if mark in taken:
        message = (
            f"{mark!r} is what clients mark the rows of {name!r} with that are there: give this tensor another name"
        )
        yield Finding(taken[mark], message, involves=(("inputs", name, "optional"),))
    step = f"{recipe.name}_modalities"
    if step in recipe.components:
        message = f"{step!r} is the name of the step that takes the optional inputs: give it another name"
        yield Finding(("components", step), message, involves=(("inputs", name, "optional"),))


def _subset_findings(recipe: Recipe) -> Iterator[Finding]:
    optional = optional_inputs(recipe)
    required = [name for name, spec in recipe.inputs.items() if not spec.optional]
    given = recipe.subsets or ()
    if recipe.subsets is not None and not any(spec.optional for spec in recipe.inputs.values()):
        yield Finding(("subsets",), "no input is optional: nothing can be left out; take it out")
        return
    for index, subset in enumerate(given):
        place = ("subsets", index, "without")
        for spot, name in enumerate(subset.without):
            if name not in recipe.inputs:
                yield Finding((*place, spot), f"there is no input {name!r}; {did_you_mean(name, recipe.inputs)}")
            elif name not in optional:
                message = f"{name!r} cannot be left out: say optional: true at the input, or take it out"
                yield Finding((*place, spot), message, involves=(("inputs", name),))
        if not required and set(subset.without) >= set(optional):
            yield Finding(place, "nothing would be left of a request: leave at least one input in")
    for number, (first, second) in enumerate(pairwise(sorted(given, key=lambda one: sorted(one.without)))):
        if set(first.without) == set(second.without):
            yield Finding(("subsets", number + 1), f"{second.label} is listed twice")


def _gate_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find limits of the graceful gate on what is not judged."""
    judged = {frozenset(subset.without) for subset in subsets(recipe)}
    for index, gate in enumerate(recipe.gates):
        if not isinstance(gate, graceful.Options):
            continue
        for name, missing in zip(gate.max_drop_when_missing, gate.limits(), strict=True):
            place = ("gates", index, "max_drop_when_missing", name)
            unknown = sorted(missing - set(recipe.inputs))
            if unknown:
                told = did_you_mean(unknown[0], recipe.inputs)
                yield Finding(place, f"there is no input {unknown[0]!r}; {told}")
            elif missing not in judged:
                shown = ", ".join("+".join(sorted(one)) for one in judged) or "none: no input is optional"
                message = f"this is no subset that is judged ({shown}): list it under subsets"
                yield Finding(place, message, involves=(("subsets",),))


def _dropout_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find training that drops modalities where none can be missing."""
    if any(spec.optional for spec in recipe.inputs.values()):
        return
    for name, component in recipe.components.items():
        for key in ("recover", "quantize"):
            if getattr(getattr(component, key), "modality_dropout", 0.0):
                message = "no input is optional, so there is nothing to drop: say optional: true at one, or take it out"
                yield Finding(("components", name, key, "modality_dropout"), message)
