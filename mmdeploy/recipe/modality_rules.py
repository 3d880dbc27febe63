"""What a recipe says of inputs that may be missing and of subsets of modalities, and cannot mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import did_you_mean
from mmdeploy.core.strings import BYTES
from mmdeploy.recipe.declared import InputSpec, plain_shape
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.media import prepared
from mmdeploy.recipe.missing import Detect, Missing
from mmdeploy.recipe.modalities import (
    Branch,
    branches,
    dependencies,
    detection,
    needs,
    optional_inputs,
    read_by,
    subsets,
)
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.wiring_order import order_with, sources_of
from mmdeploy.recipe.yaml_tree import Keys


@dataclass(frozen=True)
class _Optional:
    """An optional input, with what was found of its branch."""

    recipe: Recipe
    branch: Branch
    missing: Missing
    depends: Mapping[str, set[str]]

    @property
    def name(self) -> str:
        return self.branch.input


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
    depends, found = dependencies(recipe), branches(recipe)
    for name, missing in optional_inputs(recipe).items():
        one = _Optional(recipe, found[name], missing, depends)
        yield from _branch_findings(one)
        yield from _presence_findings(one)
        yield from _strategy_findings(one)
        if missing.detect is not None:
            yield from _detect_findings(one, missing.detect)
        yield from _name_findings(one)
    yield from _subset_findings(recipe)
    yield from _gate_findings(recipe)
    yield from _dropout_findings(recipe)


def _branch_findings(one: _Optional) -> Iterator[Finding]:
    recipe, branch, name = one.recipe, one.branch, one.name
    place: Keys = ("inputs", name, "optional")
    made = {name, *branch.made}
    readers = {
        ("components", part): read_by(recipe, part) for part in recipe.components if part not in branch.components
    }
    readers |= {
        ("preprocess", key): tuple(step.inputs.values())
        for key, step in recipe.preprocess.items()
        if key not in branch.steps and key in recipe.written.preprocess  # what is filled up is told at its size
    }
    for (section, reader), read in readers.items():
        if tensor := next((tensor for tensor in read if tensor in made), None):
            others = ", ".join(repr(other) for other in sorted(needs(read, one.depends) - {name}))
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


def _presence_findings(one: _Optional) -> Iterator[Finding]:
    recipe, name, missing, embeddings = one.recipe, one.name, one.missing, one.branch.embeddings
    presence, place = missing.presence, ("inputs", name, "missing", "presence")
    if presence is None:
        return
    readers = [
        component
        for component, part in recipe.components.items()
        if any(wire.tensor == presence for wire in part.inputs.values())
    ]
    if presence in recipe.inputs:
        message = f"{presence!r} is an input: presence is a tensor of the ensemble's own; give it a name that is free"
        yield Finding(place, message, involves=(("inputs", presence),))
        return
    heads = [
        component
        for component in readers
        if any(wire.tensor in embeddings for wire in recipe.components[component].inputs.values())
    ]
    if not readers:
        read = dict.fromkeys(wire.tensor for part in recipe.components.values() for wire in part.inputs.values())
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


def _strategy_findings(one: _Optional) -> Iterator[Finding]:
    recipe, name, missing, embeddings = one.recipe, one.name, one.missing, one.branch.embeddings
    place = ("inputs", name, "missing")
    if missing.strategy == "mean" and recipe.data.calibration is None:
        message = "mean is that of the calibration samples' embeddings: name them in data.calibration"
        yield Finding((*place, "strategy"), message, involves=(("data", "calibration"),))
    if missing.strategy == "learned" and len(embeddings) > 1:
        message = (
            f"learned is one tensor, and the branch of {name!r} writes {len(embeddings)} that others read "
            f"({', '.join(embeddings)}): take another strategy"
        )
        yield Finding((*place, "strategy"), message, needs_all=True)
    if missing.strategy != "mean":
        return
    for component in one.branch.components:
        for key, wire in recipe.components[component].outputs.items():
            if wire.tensor in embeddings and wire.dtype is not None and not wire.dtype.startswith("FP"):
                message = f"mean of {wire.tensor!r}, which is {wire.dtype}, says nothing: take zeros, learned or skip"
                involves = (("components", component, "outputs", key),)
                yield Finding((*place, "strategy"), message, involves=involves)


def _detect_findings(one: _Optional, detect: Detect) -> Iterator[Finding]:
    spec, place = one.recipe.inputs[one.name], ("inputs", one.name, "missing", "detect")
    if detect.empty and spec.dtype != BYTES and all(size > 0 for size in plain_shape(spec.shape)):
        message = f"no row of {list(spec.shape)} is empty: empty is for strings and for sizes that vary; take it out"
        yield Finding((*place, "empty"), message)
    if detect.invalid and (spec.dtype != BYTES or not one.branch.steps):
        what = "a number is refused where its range is declared" if spec.dtype != BYTES else "no step reads it alone"
        message = f"invalid is for files and text that a step of preprocess refuses, and {what}: take it out"
        yield Finding((*place, "invalid"), message, involves=(("inputs", one.name, "dtype"),), needs_all=True)
    if detect.thresholds:
        yield from _threshold_findings(one, detect)


def _threshold_findings(one: _Optional, detect: Detect) -> Iterator[Finding]:
    recipe, branch, place = one.recipe, one.branch, ("inputs", one.name, "missing", "detect")
    known = {one.name: recipe.inputs[one.name], **prepared(recipe.preprocess, recipe.inputs)}
    looked_at = detection(recipe, branch).tensor or one.name
    first = next(iter(detect.thresholds))
    if detect.tensor is not None and detect.tensor not in (one.name, *branch.made):
        message = (
            f"{detect.tensor!r} is neither the input nor made of it alone by a step of preprocess; "
            f"{did_you_mean(detect.tensor, (one.name, *branch.made))}"
        )
        yield Finding((*place, "tensor"), message, needs_all=True)
    elif detect.tensor is None and recipe.inputs[one.name].dtype == BYTES and len(branch.sources) > 1:
        message = (
            f"of which tensor? Components read {' and '.join(map(repr, branch.sources))} of {one.name!r}: name one "
            f"under tensor, such as tensor: {branch.sources[0]}"
        )
        yield Finding((*place, first), message)
    elif looked_at in known:
        yield from _limit_findings(one, detect, looked_at, known[looked_at])


def _limit_findings(one: _Optional, detect: Detect, tensor: str, spec: InputSpec) -> Iterator[Finding]:
    place: Keys = ("inputs", one.name, "missing", "detect")
    declared = (("inputs", tensor, "range"), ("inputs", tensor, "dtype"))
    for key, limit in detect.thresholds.items():
        if spec.dtype in ("BOOL", BYTES):
            made = f": name what a step makes of it ({', '.join(one.branch.made)})" if one.branch.made else ""
            message = (
                f"says nothing about {tensor!r}, which is {spec.dtype}: only numbers have it{made or '; take it out'}"
            )
            yield Finding((*place, key), message)
        elif key == "min_std" and all(size == 1 for size in plain_shape(spec.shape)):
            yield Finding((*place, key), "the standard deviation of one value is 0: every row would be missing")
        elif (span := _span(spec)) is not None:
            low, high = span
            most = (high - low) / 2 if key == "min_std" else max(abs(low), abs(high))
            if limit > most:
                message = (
                    f"{limit:g} is out of reach: values of {tensor!r} within [{low:g}, {high:g}] come to {most:g} at "
                    "most, so every row would be missing"
                )
                yield Finding((*place, key), message, involves=declared if tensor == one.name else ())


def _span(spec: InputSpec) -> tuple[float, float] | None:
    """Return the smallest and largest value of an input: as declared, or as its type of integers has them."""
    kind, _, bits = str(spec.dtype).partition("INT")
    if spec.range is not None or not bits:
        return spec.range
    return (0, 2 ** int(bits) - 1) if kind == "U" else (-(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1)


def _name_findings(one: _Optional) -> Iterator[Finding]:
    """Find names that the ensemble needs for itself."""
    from mmdeploy.triton.steps.modalities import marker  # which imports numpy; validating has no need of it

    recipe, name, branch = one.recipe, one.name, one.branch
    mark, presence = marker(name), one.missing.presence
    taken: dict[str, tuple[str | int, ...]] = {other: ("inputs", other) for other in recipe.inputs}
    for component, part in recipe.components.items():
        taken |= {wire.tensor: ("components", component, "outputs", key) for key, wire in part.outputs.items()}
    for section in ("preprocess", "postprocess"):
        for other, media in getattr(recipe, section).items():
            taken |= {tensor: (section, other, "outputs", own) for own, tensor in media.tensors.items()}
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
    wholes = [f"{name}_branch"] if len(branch.components) + len(branch.steps) > 1 else []
    wholes += [f"{name}_steps"] if detection(recipe, branch).by_steps else []
    for section in ("components", "preprocess", "postprocess"):
        for whole in wholes:
            if whole in getattr(recipe, section):
                message = f"{whole!r} is the name of a model of what depends on {name!r} alone: give it another name"
                yield Finding((section, whole), message, involves=(("inputs", name, "optional"),))


def _subset_findings(recipe: Recipe) -> Iterator[Finding]:
    # What is half declared, or was mended, is told at the input.
    optional = [name for name, spec in recipe.inputs.items() if spec.optional or spec.missing is not None]
    required = [name for name in recipe.inputs if name not in optional]
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
            elif name in subset.without[:spot]:
                yield Finding((*place, spot), f"{name!r} is listed twice")
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
            elif fixed := sorted(name for name in missing if not recipe.inputs[name].optional):
                message = f"{fixed[0]!r} cannot be left out: say optional: true at the input, or take the limit out"
                yield Finding(place, message, involves=(("inputs", fixed[0]),))
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
