"""What a cascade can and cannot be: found when the recipe is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import did_you_mean
from mmdeploy.recipe.cascade import REST, STEP, Cascade
from mmdeploy.recipe.cascade_stages import Stages, stages, without
from mmdeploy.recipe.declared import Wire, plain_shape
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.media import in_order

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: The gate that judges how many leave early.
GATE = "early_exit"
_WHEN = ("cascade", "when")


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what no cascade can be, and what cannot be beside one."""
    yield from _gate_findings(recipe)
    if recipe.cascade is None:
        return
    written = {wire.tensor: wire for part in recipe.components.values() for wire in part.outputs.values()}
    wrong = [*_tensor_findings(recipe.cascade, written)]
    yield from wrong
    yield from _beside(recipe)
    yield from _name_findings(recipe, recipe.cascade)
    if not wrong:
        found = stages(recipe)
        yield from _stage_findings(recipe, recipe.cascade, found)
        yield from _shape_findings(recipe.cascade, written)
        yield from _unread_inputs(recipe)


def _tensor_findings(cascade: Cascade, written: Mapping[str, Wire]) -> Iterator[Finding]:
    """Find a condition that is none, and tensors that there are not."""
    from mmdeploy.triton.steps.condition import ConditionError, tensors_of

    try:
        named = tensors_of(cascade.when)
    except ConditionError as error:
        yield Finding(_WHEN, f"`{cascade.when}` {error}")
        named = ()
    for name in named:
        if name not in written:
            told = did_you_mean(name, written)
            message = f"`{cascade.when}`: no component writes a tensor {name!r}; {told}"
            yield Finding(_WHEN, message, needs_all=True)
    for output, early in cascade.answers.items():
        for name in (output, early):
            if name not in written:
                message = f"no component writes the tensor {name!r}; {did_you_mean(name, written)}"
                yield Finding(("cascade", "answers", output), message, needs_all=True)


def _stage_findings(recipe: Recipe, cascade: Cascade, found: Stages) -> Iterator[Finding]:
    """Find outputs that a row which leaves early has no answer for, and answers that save nothing."""
    by = {wire.tensor: name for name, part in recipe.components.items() for wire in part.outputs.values()}
    for output in cascade.answers:
        place = ("cascade", "answers", output)
        if by[output] in found.early:
            message = (
                f"{output!r} is written by {by[output]!r}, which the condition or an early answer depends on: it is "
                "computed for every row, so nothing is saved; name outputs of what is to be asked only where unsure"
            )
            yield Finding(place, message, involves=(_WHEN,), needs_all=True)
        elif output not in recipe.model_outputs:
            message = f"{output!r} is no output of the ensemble, nor read by postprocess; accepted: those"
            yield Finding(place, message, involves=(("outputs",),), needs_all=True)
    for name in recipe.model_outputs:
        if name in by and by[name] in found.rest and name not in cascade.answers:
            message = (
                f"rows that leave early have no {name!r}, which {by[name]!r} writes: say which tensor answers for it, "
                f"{name}: TENSOR"
            )
            yield Finding(("cascade", "answers"), message, involves=(("outputs", name),), needs_all=True)


def _shape_findings(cascade: Cascade, written: Mapping[str, Wire]) -> Iterator[Finding]:
    """Find early answers of another shape and conditions that are no truth of a row, as far as shapes are declared."""
    from mmdeploy.triton.steps.condition import ConditionError, asks_further, tensors_of

    for output, early in cascade.answers.items():
        for key in ("dtype", "shape"):
            ours, theirs = getattr(written[early], key), getattr(written[output], key)
            if ours is not None and theirs is not None and ours != theirs:
                both = f"{early!r} has {key} {_shown(ours)} and {output!r} {_shown(theirs)}"
                message = f"{both}: one answers for the other, so they must be alike"
                yield Finding(("cascade", "answers", output), message, needs_all=True)
    named = tensors_of(cascade.when)
    if texts := [name for name in named if written[name].dtype == "BYTES"]:
        yield Finding(_WHEN, f"{texts[0]!r} is BYTES, and a condition takes numbers")
    elif all(written[name].shape is not None for name in named):
        import numpy as np

        sizes = {name: [2 if size == -1 else size for size in plain_shape(written[name].shape or ())] for name in named}
        try:
            asks_further(cascade.when, {name: np.zeros((2, *shape)) for name, shape in sizes.items()})
        except ConditionError as error:
            yield Finding(_WHEN, f"`{cascade.when}` {error}")


def _shown(declared: object) -> str:
    return f"[{', '.join(map(str, declared))}]" if isinstance(declared, tuple) else str(declared)


def _beside(recipe: Recipe) -> Iterator[Finding]:
    """Find what a recipe with a cascade cannot have."""
    cascade = (("cascade",),)
    for name, spec in recipe.inputs.items():
        if spec.optional:
            message = (
                f"a cascade asks the rest of the model for rows of whole requests, and {name!r} may be missing: take "
                "optional out, or serve without a cascade"
            )
            yield Finding(("inputs", name, "optional"), message, involves=cascade)
    for name, size in recipe.sizes.items():
        if size.bucket is not None:
            message = "a cascade gathers rows of one length, and does not pad them: take bucket out, or the cascade"
            yield Finding(("sizes", name, "bucket"), message, involves=cascade)
    for name, part in recipe.components.items():
        if part.serving.max_batch_size == 0:
            message = "a cascade decides row by row, and 0 is a model without rows: say 1 or more"
            yield Finding(("components", name, "serving", "max_batch_size"), message, involves=cascade)


def _unread_inputs(recipe: Recipe) -> Iterator[Finding]:
    """Find inputs that only early components have a use for: the plain ensemble, which is compared with, lacks them."""
    read = {wire.tensor for part in without(recipe).components.values() for wire in part.inputs.values()}
    for step in (recipe.preprocess[name] for name in reversed(in_order(recipe.preprocess))):
        read |= {*step.inputs.values()} if read & {*step.tensors.values()} else set()
    for name in recipe.inputs:
        if name not in read:
            message = (
                f"only early components of the cascade depend on {name!r}: the plain ensemble, which it is judged "
                "against, has no such input; let the rest of the model read it, or make it of another input"
            )
            yield Finding(("inputs", name), message, involves=(("cascade",),), needs_all=True)


def _name_findings(recipe: Recipe, cascade: Cascade) -> Iterator[Finding]:
    """Find names that the ensemble needs for itself."""
    taken = {wire.tensor for part in recipe.components.values() for wire in part.outputs.values()} | {*recipe.inputs}
    taken |= {
        tensor
        for section in (recipe.preprocess, recipe.postprocess)
        for step in section.values()
        for tensor in step.tensors.values()
    }
    if cascade.left_early in taken:
        message = f"{cascade.left_early!r} is a tensor already: give left_early a name that is free"
        yield Finding(("cascade", "left_early"), message)
    for section in ("components", "preprocess", "postprocess"):
        for name in (STEP, REST):
            if name in getattr(recipe, section):
                message = f"{name!r} is the name of a model that a cascade is served by: give it another name"
                yield Finding((section, name), message, involves=(("cascade",),))


def _gate_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find a cascade of which nobody judges how many leave early, and a gate that has none to judge."""
    judging = [index for index, gate in enumerate(recipe.gates) if method_of(gate) == GATE]
    if recipe.cascade is None:
        for index in judging:
            message = "no row can leave early without a cascade: add the section, or take the gate out"
            yield Finding(("gates", index), message, needs_all=True)
    elif not judging:
        message = (
            f"nothing judges how many leave early: add a gate, such as {{method: {GATE}, min_left_early: 0.5}}; "
            "accuracy and latency are judged against the plain ensemble"
        )
        yield Finding(("cascade",), message, involves=(("gates",),), needs_all=True)
