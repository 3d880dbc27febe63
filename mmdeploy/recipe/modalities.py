"""Inputs that a request may leave out: the branch of each, what stands in for it, and what can be wrong with that.

An optional input's *branch* is every component, and every step of ``preprocess``, that depends on that input alone.
Its *embeddings* are the tensors of the branch that the rest of the ensemble, or the client, reads: where the input is
missing the branch is not run, and stand-ins take their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import did_you_mean
from mmdeploy.recipe.declared import InputSpec, plain_shape
from mmdeploy.recipe.finding import Finding
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
    """

    input: str
    components: tuple[str, ...]
    embeddings: tuple[str, ...]
    steps: tuple[str, ...]
    sources: tuple[str, ...]


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


def _branch(recipe: Recipe, name: str) -> Branch:
    depends, parts = _dependencies(recipe), recipe.components
    order = order_with(sources_of(parts))
    inside = tuple(one for one in order if _needs(_read(recipe, one), depends) == {name})
    steps = _steps(recipe, name, depends)
    made = (name, *(tensor for step in steps for tensor in recipe.preprocess[step].tensors.values()))
    within = {tensor for one in inside for tensor in _read(recipe, one)}
    read = {tensor for one in parts if one not in inside for tensor in _read(recipe, one)} | {*recipe.model_outputs}
    written = [wire.tensor for one in inside for wire in parts[one].outputs.values()]
    return Branch(
        name,
        inside,
        tuple(tensor for tensor in written if tensor in read),
        steps,
        tuple(tensor for tensor in made if tensor in within),
    )


def _read(recipe: Recipe, component: str) -> tuple[str, ...]:
    return tuple(wire.tensor for wire in recipe.components[component].inputs.values())


def _steps(recipe: Recipe, name: str, depends: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return the steps of ``preprocess`` that depend on an input alone, in order."""
    steps = recipe.preprocess
    return tuple(step for step in in_order(steps) if _needs(steps[step].inputs.values(), depends) == {name})


def _needs(tensors: Iterable[str], depends: Mapping[str, set[str]]) -> set[str]:
    return set[str]().union(*(depends.get(tensor, set()) for tensor in tensors))


def _dependencies(recipe: Recipe) -> dict[str, set[str]]:
    """Return, for each tensor, the inputs that it depends on, presence tensors among them."""
    found = {name: {name} for name in (*recipe.inputs, *presence_tensors(recipe).values())}
    for step in (recipe.preprocess[name] for name in in_order(recipe.preprocess)):
        found |= dict.fromkeys(step.tensors.values(), _needs(step.inputs.values(), found))
    for name in order_with(sources_of(recipe.components)):
        written = [wire.tensor for wire in recipe.components[name].outputs.values()]
        found |= dict.fromkeys(written, _needs(_read(recipe, name), found))
    return found


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what is wrong with inputs that may be left out, and with the subsets that gates judge."""
    for name, spec in recipe.inputs.items():
        place = ("inputs", name)
        if spec.optional and spec.missing is None:
            message = "say what stands in for it: missing: {strategy: mean}"
            yield Finding((*place, "optional"), message, involves=((*place, "missing"),))
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
    place: tuple[str, ...] = ("inputs", name, "optional")
    made = {name, *(tensor for step in branch.steps for tensor in recipe.preprocess[step].tensors.values())}
    readers = {("components", one): _read(recipe, one) for one in recipe.components if one not in branch.components}
    readers |= {
        ("preprocess", one): tuple(step.inputs.values())
        for one, step in recipe.preprocess.items()
        if one not in branch.steps
    }
    for (section, reader), read in readers.items():
        if tensor := next((tensor for tensor in read if tensor in made), None):
            others = ", ".join(repr(other) for other in sorted(_needs(read, depends) - {name}))
            shown = repr(name) if tensor == name else f"{tensor!r}, made of {name!r},"
            advice = "give it an encoder of its own" if section == "components" else "give it a step of its own"
            message = (
                f"cannot be left out: {reader!r} reads {shown} and depends on {others} too, and a stand-in takes the "
                f"place of what depends on {name!r} alone; {advice}"
            )
            yield Finding(place, message, involves=((section, reader, "inputs"),), needs_all=True)
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
        elif (span := _span(spec)) is not None:
            low, high = span
            most = (high - low) / 2 if key == "min_std" else max(abs(low), abs(high))
            if limit > most:
                message = (
                    f"{limit:g} is out of reach: values within [{low:g}, {high:g}] come to {most:g} at most, so every "
                    "row would be missing"
                )
                yield Finding((*place, key), message, involves=(("inputs", name, "range"), ("inputs", name, "dtype")))
    if detect.empty and str(spec.dtype) != "BYTES" and all(size > 0 for size in plain_shape(spec.shape)):
        message = f"no row of {list(spec.shape)} is empty: empty is for strings and for sizes that vary; take it out"
        yield Finding((*place, "empty"), message)


def _span(spec: InputSpec) -> tuple[float, float] | None:
    """Return the smallest and largest value of an input: as declared, or as its type of integers has them."""
    kind, _, bits = str(spec.dtype).partition("INT")
    if spec.range is not None or not bits:
        return spec.range
    return (0, 2 ** int(bits) - 1) if kind == "U" else (-(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1)


def _name_findings(recipe: Recipe, name: str) -> Iterator[Finding]:
    """Find names that the ensemble needs for itself."""
    from mmdeploy.triton.steps.modalities import marker  # which imports numpy; validating has no need of it

    mark, presence, branch = marker(name), presence_tensors(recipe).get(name), _branch(recipe, name)
    taken: dict[str, tuple[str | int, ...]] = {other: ("inputs", other) for other in recipe.inputs}
    for component, part in recipe.components.items():
        taken |= {wire.tensor: ("components", component, "outputs", key) for key, wire in part.outputs.items()}
    for section in ("preprocess", "postprocess"):
        for other, one in getattr(recipe, section).items():
            taken |= {tensor: (section, other, "outputs", own) for own, tensor in one.tensors.items()}
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
    whole = f"{name}_branch"
    for section in ("components", "preprocess", "postprocess"):
        if whole in getattr(recipe, section) and len(branch.components) + len(branch.steps) > 1:
            message = f"{whole!r} is the name of the model of what depends on {name!r} alone: give it another name"
            yield Finding((section, whole), message, involves=(("inputs", name, "optional"),))


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
        if any(set(subset.without) == set(other.without) for other in given[:index]):
            yield Finding(("subsets", index), f"{subset.label} is listed twice")


def _gate_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find limits of the graceful gate on what is not judged."""
    judged = {frozenset(subset.without) for subset in subsets(recipe)}
    if not set().union(*judged) <= optional_inputs(recipe).keys():  # which is told at the subset, or at the input
        return
    for index, gate in enumerate(recipe.gates):
        if method_of(gate) != "graceful":
            continue
        from mmdeploy.gates import graceful

        assert isinstance(gate, graceful.Options)
        for name, missing in zip(gate.max_drop_when_missing, gate.limits(), strict=True):
            place = ("gates", index, "max_drop_when_missing", name)
            unknown = sorted(missing - set(recipe.inputs))
            if unknown:
                told = did_you_mean(unknown[0], recipe.inputs)
                yield Finding(place, f"there is no input {unknown[0]!r}; {told}")
            elif missing not in judged:
                shown = ", ".join("+".join(sorted(one)) for one in judged) or "none: no input is optional"
                message = f"this is no subset that is judged ({shown}): list it under subsets"
                stand_ins = tuple(("inputs", one, "missing") for one in missing)
                yield Finding(place, message, involves=(("subsets",), *stand_ins))


def _dropout_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find training that drops modalities where none can be missing."""
    if any(spec.optional for spec in recipe.inputs.values()):
        return
    for name, component in recipe.components.items():
        for key in ("recover", "quantize"):
            if getattr(getattr(component, key), "modality_dropout", 0.0):
                message = "no input is optional, so there is nothing to drop: say optional: true at one, or take it out"
                yield Finding(("components", name, key, "modality_dropout"), message)
