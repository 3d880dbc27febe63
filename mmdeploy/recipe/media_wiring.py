"""Static checks of ``preprocess`` and ``postprocess``: that their steps fit each other and the components."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmdeploy.core.errors import did_you_mean
from mmdeploy.core.strings import BYTES
from mmdeploy.recipe.declared import plain_shape
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.media import MediaStep, in_order, spec_problems

if TYPE_CHECKING:
    from mmdeploy.preprocess import Spec
    from mmdeploy.recipe.schema import Recipe

SECTIONS = ("preprocess", "postprocess")


def media_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find steps that Triton, their method, or what lies around them would refuse."""
    yield from _strings(recipe)
    if recipe.preprocess or recipe.postprocess:
        yield from _names(recipe)
        yield from _own_names(recipe)
        yield from _sides(recipe)
        yield from _circles(recipe)
        yield from _unread(recipe)
        yield from _unfit(recipe)
        yield from _scored(recipe)


def steps_of(recipe: Recipe) -> Iterator[tuple[str, str, MediaStep]]:
    """Give each step with its section and its name."""
    for section in SECTIONS:
        for name, step in getattr(recipe, section).items():
            yield section, name, step


def _strings(recipe: Recipe) -> Iterator[Finding]:
    """Find components that read text or media as it is."""
    sources = recipe.sources()
    for name, component in recipe.components.items():
        for key, wire in component.inputs.items():
            source = sources.get(wire.tensor)
            if source is not None and source.dtype == BYTES:
                message = f"{wire.tensor!r} is BYTES, and an engine takes numbers: let a step of preprocess read it"
                yield Finding(("components", name, "inputs", key), message, involves=(("inputs", wire.tensor),))


def _names(recipe: Recipe) -> Iterator[Finding]:
    taken = {name.casefold(): f"the component {name!r}" for name in recipe.components}
    for section, name, _ in steps_of(recipe):
        if (other := taken.get(name.casefold())) is not None:
            yield Finding((section, name), f"{other} has this name too, and both are models in Triton; rename one")
        taken[name.casefold()] = f"the step {section}.{name}"


def _own_names(recipe: Recipe) -> Iterator[Finding]:
    for section, name, step in steps_of(recipe):
        inputs, outputs = step.accepts
        for side, given, accepted in (("inputs", step.inputs, inputs), ("outputs", step.outputs, outputs)):
            for own in given:
                if own not in accepted:
                    message = f"the method has no {side[:-1]} {own!r}; {did_you_mean(own, accepted)}"
                    yield Finding((section, name, side, own), message)
        for own in inputs if {*step.inputs} <= {*inputs} else ():  # else it is what is misspelt, which is told
            if own not in step.inputs:
                yield Finding((section, name, "inputs"), f"its input {own!r} is wired to nothing", needs_all=True)


def _sides(recipe: Recipe) -> Iterator[Finding]:
    """Find steps that read what is not on their side of the components."""
    computed = {wire.tensor for part in recipe.components.values() for wire in part.outputs.values()}
    for section, name, step in steps_of(recipe):
        before = section == "preprocess"
        mine = {tensor for one in getattr(recipe, section).values() for tensor in one.tensors.values()}
        for own, tensor in step.inputs.items():
            if tensor in mine or tensor in (recipe.inputs if before else computed):
                continue
            if tensor not in computed and tensor not in recipe.inputs:
                continue  # nothing writes it, which is said elsewhere
            what = "what clients send" if before else "what components write"
            message = f"{tensor!r} is none of that: {section} reads {what}, and what its own steps write"
            yield Finding((section, name, "inputs", own), message, involves=(("inputs", tensor),))


def _circles(recipe: Recipe) -> Iterator[Finding]:
    for section in SECTIONS:
        steps, read = getattr(recipe, section), set[str]()
        for name in in_order(steps):
            read |= {*steps[name].inputs.values()}
            if read & {*steps[name].tensors.values()}:
                yield Finding((section, name), "it reads, itself or by others, what it writes: steps run in order")
                break


def _unread(recipe: Recipe) -> Iterator[Finding]:
    read = {wire.tensor for part in recipe.components.values() for wire in part.inputs.values()} | {*recipe.outputs}
    read |= {tensor for _, _, step in steps_of(recipe) for tensor in step.inputs.values()}
    for section, name, step in steps_of(recipe):
        for own, tensor in step.tensors.items():
            if tensor not in read:
                message = f"nothing takes the tensor {tensor!r}: wire it, or take it out"
                yield Finding((section, name, "outputs", own), message, needs_all=True)


def _unfit(recipe: Recipe) -> Iterator[Finding]:
    """Find steps that do not take the types or shapes that they are given, as far as those are declared."""
    for section, given in given_specs(recipe):
        for name, problem in spec_problems(getattr(recipe, section), given):
            yield Finding((section, name), problem)


def given_specs(recipe: Recipe) -> Iterator[tuple[str, dict[str, Spec]]]:
    """Give each section with what is declared of the tensors that its first steps read.

    A component's output whose type is not declared is taken for FP32: steps take any numbers.
    """
    from mmdeploy.preprocess import Spec

    yield "preprocess", {name: Spec(spec.dtype, plain_shape(spec.shape)) for name, spec in recipe.inputs.items()}
    wires = (wire for part in recipe.components.values() for wire in part.outputs.values())
    declared = {wire.tensor: (wire.dtype or "FP32", wire.shape) for wire in wires}
    yield (
        "postprocess",
        {tensor: Spec(dtype, plain_shape(shape)) for tensor, (dtype, shape) in declared.items() if shape is not None},
    )


def _scored(recipe: Recipe) -> Iterator[Finding]:
    """Find recipes whose passes are scored, while no component's own output can be."""
    if recipe.data.validation is not None and recipe.postprocess and not recipe.model_outputs:
        message = "searches and training are scored by what components write, and no output depends on any"
        yield Finding(("postprocess",), message, needs_all=True)
