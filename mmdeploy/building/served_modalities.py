"""How optional inputs are served: a Python step takes them and asks for their branches; the rest stays as it is.

Optional inputs of an ensemble reach Python steps only, and Triton never skips a step. So the components of a branch,
and the steps of ``preprocess`` before them, are no steps of the ensemble: ``<ensemble>_modalities`` asks for them
(`mmdeploy.triton.steps.modalities`) as one model: the branch's only component, or an ensemble of components and steps.
Where what the steps make tells whether an input counts as missing, they are a model of their own, which is asked first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.core.strings import BYTES
from mmdeploy.recipe.modalities import Branch, branches, detection, optional_inputs, presence_tensors
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.options import DynamicBatching, InstanceGroup, Serving
from mmdeploy.triton.served_step import ServedStep
from mmdeploy.triton.steps import modalities

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

_Part = TypeVar("_Part", ServedComponent, ServedStep)
_Model: TypeAlias = ServedComponent | ServedStep | ServedEnsemble


def with_modalities(recipe: Recipe, ensemble: ServedEnsemble, stand_ins: Path | None) -> ServedEnsemble:
    """Return an ensemble that a request may leave the recipe's optional inputs out of; others as they are.

    Args:
        recipe: The recipe.
        ensemble: Of all components, each a step of it.
        stand_ins: What the ``original/stand_ins`` step made; None where no input is optional.
    """
    optional = optional_inputs(recipe)
    if not optional or stand_ins is None:
        return ensemble
    parts, steps = _by_name(recipe, ensemble.components), _by_name(recipe, ensemble.steps)
    asked = {name: _asked(recipe, branch, parts, steps) for name, branch in branches(recipe).items()}
    marks = tuple(TensorSpec(modalities.marker(name), "BOOL", (1,)) for name in optional)
    models = [one for _, some in asked.values() for one in some]
    step = _step(recipe, ensemble, {name: options for name, (options, _) in asked.items()})
    return replace(
        ensemble,
        inputs=(*ensemble.inputs, *marks),
        steps=(*ensemble.steps, replace(step, beside={modalities.STAND_INS: stand_ins})),
        branches=tuple(one for one in models if isinstance(one, ServedEnsemble)),
        asked=frozenset(one.name for one in models if not isinstance(one, ServedEnsemble)),
    )


def _by_name(recipe: Recipe, parts: Sequence[_Part]) -> dict[str, _Part]:
    return {part.name.removeprefix(f"{recipe.name}."): part for part in parts}


def _asked(
    recipe: Recipe, branch: Branch, parts: Mapping[str, ServedComponent], around: Mapping[str, ServedStep]
) -> tuple[dict[str, Any], tuple[_Model, ...]]:
    """Return how the step asks for a branch, and the models that it asks."""
    components, detected = tuple(parts[name] for name in branch.components), detection(recipe, branch)
    steps, padding = tuple(around[name] for name in branch.steps), _padding(branch, around)
    specs, spec = written(components), recipe.inputs[branch.input]
    sent = recipe.tensor(branch.input, spec.dtype, spec.shape)
    gives = tuple(specs[tensor] for tensor in branch.embeddings)
    if padding and (varying := next((one.name for one in gives if -1 in one.shape), None)):
        raise UsageError(
            f"{varying!r}, which is made of {branch.input!r} alone, varies in length, and so does its padding: what "
            "stands in for it where the input is missing has one size",
            hint="pool over that axis in the model, or take `bucket` out",
        )
    name = f"{recipe.name}.{branch.input}"
    options = {
        "joins": joins(components),
        "presence": presence_tensors(recipe).get(branch.input),
        "detect": dict(detected.sent),
    }
    if not detected.by_steps:
        whole = ServedEnsemble(f"{name}_branch", (sent,), gives, components, steps=(*steps, *padding))
        asked, model = asked_as(whole)
        # All that is read is the input.
        return {**options, **asked, "inputs": [*asked["inputs"]]}, (model,)
    known = made(steps)
    first = ServedEnsemble(
        f"{name}_steps",
        (sent,),
        tuple(known[tensor] for tensor in branch.made if tensor in {*branch.sources, detected.tensor}),
        (),
        steps=steps,
    )
    read = tuple(sent if tensor == branch.input else known[tensor] for tensor in branch.sources)
    (steps_asked, steps_model), (asked, model) = (
        asked_as(first), asked_as(ServedEnsemble(f"{name}_branch", read, gives, components, steps=padding))
    )  # fmt: skip
    steps_asked |= {"tensor": detected.tensor, "detect": dict(detected.made), "invalid": detected.invalid}
    return {**options, **asked, "steps": steps_asked}, (steps_model, model)


def _padding(branch: Branch, around: Mapping[str, ServedStep]) -> tuple[ServedStep, ...]:
    """Return the steps that pad what components of a branch read to buckets."""
    others = (step for name, step in around.items() if name not in branch.steps)
    return tuple(step for step in others if {*step.inputs.values()} <= {*branch.sources})


def asked_as(whole: ServedEnsemble) -> tuple[dict[str, Any], _Model]:
    """Return how some parts are asked as one model, and that model: their ensemble, or the only part."""
    model: _Model = whole if len(whole.parts) > 1 else whole.parts[0]
    given, wanted = {spec.name for spec in whole.inputs}, [spec.name for spec in whole.outputs]
    inputs, outputs = {name: name for name in given}, {name: name for name in wanted}
    if not isinstance(model, ServedEnsemble):
        keys = {tensor: key for key, tensor in model.outputs.items()}
        inputs = {key: tensor for key, tensor in model.inputs.items() if tensor in given}
        outputs = {tensor: keys[tensor] for tensor in wanted}
    return {
        "model": model.name,
        "version": model.version,
        "max_batch_size": max(1, min(part.serving.max_batch_size for part in whole.parts)),
        "inputs": inputs,
        "outputs": outputs,
    }, model


def joins(components: tuple[ServedComponent, ...]) -> bool:
    """Say whether rows of several requests are asked for as one: not where answers are kept, by whole requests."""
    servings = [part.serving for part in components]
    return all(one.dynamic_batching is not None and not one.response_cache for one in servings)


def _step(recipe: Recipe, ensemble: ServedEnsemble, asked: Mapping[str, Mapping[str, Any]]) -> ServedStep:
    given = {spec.name: spec for spec in ensemble.inputs}
    always = [name for name in given if name not in asked]
    # One input that is always there: a step without any is refused.
    anchor = sorted(always, key=lambda name: (given[name].dtype == BYTES, math.prod(map(abs, given[name].shape))))[:1]
    marks = [TensorSpec(modalities.marker(name), "BOOL", (1,)) for name in asked]
    takes = (*(given[name] for name in asked), *marks, *(given[name] for name in anchor))
    specs, found = written(ensemble.components), branches(recipe)
    gives = [specs[tensor] for name in asked for tensor in found[name].embeddings]
    gives += [TensorSpec(tensor, "BOOL", (1,)) for tensor in presence_tensors(recipe).values()]
    largest = ensemble.max_batch_size
    return ServedStep(
        name=f"{recipe.name}_modalities",
        code=Path(modalities.__file__),
        takes=takes,
        gives=tuple(gives),
        inputs={spec.name: spec.name for spec in takes},
        outputs={spec.name: spec.name for spec in gives},
        options={"inputs": dict(asked), "required": anchor, "ensemble": recipe.name},
        optional=frozenset((*asked, *(spec.name for spec in marks))),
        serving=Serving(
            max_batch_size=largest,
            dynamic_batching=DynamicBatching() if largest > 1 else None,
            instance_group=InstanceGroup(),
        ),
        sample=_sample(ensemble, {spec.name for spec in takes}),
    )


def written(components: tuple[ServedComponent, ...]) -> dict[str, TensorSpec]:
    """Return the specs of what components write, by ensemble tensor."""
    return {
        part.outputs[spec.name]: replace(spec, name=part.outputs[spec.name])
        for part in components
        for spec in part.artifact.outputs
    }


def made(steps: tuple[ServedStep, ...]) -> dict[str, TensorSpec]:
    """Return the specs of what steps write, by ensemble tensor."""
    return {
        step.outputs[spec.name]: replace(spec, name=step.outputs[spec.name])
        for step in steps
        for spec in step.gives
        if spec.name in step.outputs
    }


def _sample(ensemble: ServedEnsemble, taken: set[str]) -> dict[str, Array]:
    return {
        tensor: part.sample[key]
        for part in ensemble.parts
        for key, tensor in part.inputs.items()
        if tensor in taken and key in part.sample
    }
