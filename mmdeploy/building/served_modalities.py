"""How optional inputs are served: a Python step takes them and asks for their branches; the rest stays as it is.

Optional inputs of an ensemble reach Python steps only, and Triton never skips a step. So the components of a branch,
and the steps of ``preprocess`` before them, are no steps of the ensemble: ``<ensemble>_modalities`` asks for them
(`mmdeploy.triton.steps.modalities`) as one model: the branch's only component, or an ensemble of components and steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.strings import BYTES
from mmdeploy.recipe.modalities import Branch, branches, optional_inputs, presence_tensors
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.options import DynamicBatching, InstanceGroup, Serving
from mmdeploy.triton.served_step import ServedStep
from mmdeploy.triton.steps import modalities

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

_Part = TypeVar("_Part", ServedComponent, ServedStep)


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
    asked = {
        name: _asked(recipe, branch, parts, tuple(steps[one] for one in branch.steps))
        for name, branch in branches(recipe).items()
    }
    marks = tuple(TensorSpec(modalities.marker(name), "BOOL", (1,)) for name in optional)
    step = _step(recipe, ensemble, {name: options for name, (options, _) in asked.items()})
    return replace(
        ensemble,
        inputs=(*ensemble.inputs, *marks),
        steps=(*ensemble.steps, replace(step, beside={modalities.STAND_INS: stand_ins})),
        branches=tuple(one for _, one in asked.values() if isinstance(one, ServedEnsemble)),
        asked=frozenset(one.name for _, one in asked.values() if isinstance(one, ServedComponent)),
    )


def _by_name(recipe: Recipe, parts: Sequence[_Part]) -> dict[str, _Part]:
    return {part.name.removeprefix(f"{recipe.name}."): part for part in parts}


def _asked(
    recipe: Recipe, branch: Branch, parts: Mapping[str, ServedComponent], steps: tuple[ServedStep, ...]
) -> tuple[dict[str, Any], ServedComponent | ServedEnsemble]:
    """Return how the step asks for a branch, and the model that it asks."""
    components = tuple(parts[name] for name in branch.components)
    specs = _written(components)
    spec = recipe.inputs[branch.input]
    whole = ServedEnsemble(
        f"{recipe.name}.{branch.input}_branch",
        (recipe.tensor(branch.input, spec.dtype, spec.shape),),
        tuple(specs[tensor] for tensor in branch.embeddings),
        components,
        steps=steps,
    )
    options = {
        "max_batch_size": max(1, min(part.serving.max_batch_size for part in whole.parts)),
        "joins": _join(components),
        "presence": presence_tensors(recipe).get(branch.input),
        "detect": _detect(recipe, branch.input),
    }
    if len(components) == 1 and not steps:
        part = components[0]
        keys = {tensor: key for key, tensor in part.outputs.items()}
        names = [key for key, tensor in part.inputs.items() if tensor == branch.input]
        outputs = {tensor: keys[tensor] for tensor in branch.embeddings}
        return {**options, "model": part.name, "version": part.version, "inputs": names, "outputs": outputs}, part
    outputs = {tensor: tensor for tensor in branch.embeddings}
    return {
        **options,
        "model": whole.name,
        "version": whole.version,
        "inputs": [branch.input],
        "outputs": outputs,
    }, whole


def _join(components: tuple[ServedComponent, ...]) -> bool:
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
    specs, found = _written(ensemble.components), branches(recipe)
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


def _detect(recipe: Recipe, name: str) -> dict[str, Any]:
    detect = optional_inputs(recipe)[name].detect
    return {} if detect is None else detect.settings


def _written(components: tuple[ServedComponent, ...]) -> dict[str, TensorSpec]:
    """Return the specs of what components write, by ensemble tensor."""
    return {
        part.outputs[spec.name]: replace(spec, name=part.outputs[spec.name])
        for part in components
        for spec in part.artifact.outputs
    }


def _sample(ensemble: ServedEnsemble, taken: set[str]) -> dict[str, Array]:
    return {
        tensor: part.sample[key]
        for part in ensemble.parts
        for key, tensor in part.inputs.items()
        if tensor in taken and key in part.sample
    }
