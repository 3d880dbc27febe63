"""How a cascade is served: early components are steps of the ensemble, and a Python step asks the rest where unsure.

The rest are no steps of the ensemble: Triton would run them for every request. ``<ensemble>.cascade`` asks for them by
business logic scripting (`mmdeploy.triton.steps.cascade`) as one model: the only component, or the ensemble
``<ensemble>.rest`` of components and the steps of ``preprocess`` that nobody else reads. Steps of ``postprocess`` stay
behind: they see one answer, whoever gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mmdeploy.building.served_modalities import asked_as, joins, made, written
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.recipe.cascade import REST, STEP, Cascade
from mmdeploy.recipe.cascade_stages import stages
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.options import DynamicBatching, InstanceGroup, Serving
from mmdeploy.triton.response_cache import with_versions
from mmdeploy.triton.served_step import ServedStep
from mmdeploy.triton.steps import cascade as code
from mmdeploy.triton.steps import condition

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

_Part: TypeAlias = ServedComponent | ServedStep


def with_cascade(recipe: Recipe, ensemble: ServedEnsemble) -> ServedEnsemble:
    """Return an ensemble that asks the rest of a cascade only for rows that do not leave early; others as they are.

    Args:
        recipe: The recipe.
        ensemble: Of all components, each a step of it.

    Raises:
        UsageError: If an early answer has not the shape of what it answers for.
    """
    cascade = recipe.cascade
    if cascade is None:
        return ensemble
    specs = _specs(ensemble)
    _require_alike(cascade, specs)
    rest = _rest(recipe, ensemble, specs)
    options, model = asked_as(rest)
    step = _step(recipe, cascade, ensemble, rest)
    asked = {**options, "joins": joins(rest.components)}
    step = replace(step, options={**step.options, "inputs": {REST: asked}})
    is_ensemble = isinstance(model, ServedEnsemble)
    return with_versions(
        replace(
            ensemble,
            outputs=(*ensemble.outputs, TensorSpec(cascade.left_early, "BOOL", (1,))),
            steps=(*ensemble.steps, step),
            branches=(rest,) if is_ensemble else (),
            asked=frozenset() if is_ensemble else frozenset({model.name}),
        )
    )


def without_cascade(recipe: Recipe, ensemble: ServedEnsemble) -> ServedEnsemble:
    """Return the plain ensemble, whose every row the rest answers: without components that only answer early."""
    if recipe.cascade is None:
        return ensemble
    only = {f"{recipe.name}.{name}" for name in stages(recipe).early_only}
    parts = tuple(part for part in ensemble.components if part.name not in only)
    left: tuple[_Part, ...] = (*parts, *ensemble.steps)
    read = {tensor for part in left for tensor in part.inputs.values()}
    steps = tuple(step for step in ensemble.steps if read & {*step.outputs.values()} or _gives(ensemble, step))
    return with_versions(replace(ensemble, components=parts, steps=steps))


def _gives(ensemble: ServedEnsemble, step: ServedStep) -> bool:
    return bool({spec.name for spec in ensemble.outputs} & {*step.outputs.values()})


def _rest(recipe: Recipe, ensemble: ServedEnsemble, specs: Mapping[str, TensorSpec]) -> ServedEnsemble:
    """Describe what is asked where the early components are unsure, as an ensemble of its own."""
    cascade, names = recipe.cascade, {f"{recipe.name}.{name}" for name in stages(recipe).rest}
    assert cascade is not None
    components = tuple(part for part in ensemble.components if part.name in names)
    steps = _own_steps(recipe, ensemble, components)
    inside: tuple[_Part, ...] = (*components, *steps)
    own = {tensor for part in inside for tensor in part.outputs.values()}
    read = dict.fromkeys(tensor for part in inside for tensor in part.inputs.values() if tensor not in own)
    gives = tuple(specs[output] for output in cascade.answers)
    return ServedEnsemble(
        f"{recipe.name}.{REST}", tuple(specs[tensor] for tensor in read), gives, components, steps=steps
    )


def _own_steps(
    recipe: Recipe, ensemble: ServedEnsemble, components: tuple[ServedComponent, ...]
) -> tuple[ServedStep, ...]:
    """Return the steps of ``preprocess`` that only the rest reads, such as the decoder of a file: they wait, too."""
    prepares = {f"{recipe.name}.{name}" for name in recipe.preprocess}
    found = {step.name: step for step in ensemble.steps if step.name in prepares}
    outside = [part for part in ensemble.components if part not in components]
    wanted = {spec.name for spec in ensemble.outputs} | {*stages(recipe).read}
    while True:
        others: tuple[_Part, ...] = (*outside, *(step for step in ensemble.steps if step.name not in found))
        read = wanted | {tensor for part in others for tensor in part.inputs.values()}
        kept = {name: step for name, step in found.items() if not read & {*step.outputs.values()}}
        if len(kept) == len(found):
            return tuple(kept.values())
        found = kept


def _step(recipe: Recipe, cascade: Cascade, ensemble: ServedEnsemble, rest: ServedEnsemble) -> ServedStep:
    specs = _specs(ensemble)
    names = dict.fromkeys((*stages(recipe).read, *(spec.name for spec in rest.inputs)))
    takes = tuple(specs[name] for name in names)
    answers = tuple(specs[output] for output in cascade.answers)
    gives = (*answers, TensorSpec(cascade.left_early, "BOOL", (1,)))
    labels = {name: spec.labels for name, spec in recipe.outputs.items() if name in cascade.answers}
    largest = ensemble.max_batch_size
    return ServedStep(
        name=f"{recipe.name}.{STEP}",
        code=Path(code.__file__),
        takes=takes,
        gives=gives,
        inputs={spec.name: spec.name for spec in takes},
        outputs={spec.name: spec.name for spec in gives},
        options={"when": cascade.when, "answers": dict(cascade.answers), "left_early": cascade.left_early},
        beside={code.CONDITION: Path(condition.__file__)},
        serving=Serving(
            max_batch_size=largest,
            dynamic_batching=DynamicBatching() if largest > 1 else None,
            instance_group=InstanceGroup(count=cascade.instances),
        ),
        labels={name: recipe.root / path for name, path in labels.items() if path is not None},
    )


def _specs(ensemble: ServedEnsemble) -> dict[str, TensorSpec]:
    """Return the spec of each tensor of an ensemble."""
    given = {spec.name: spec for spec in ensemble.inputs}
    return {**given, **made(ensemble.steps), **written(ensemble.components)}


def _require_alike(cascade: Cascade, specs: Mapping[str, TensorSpec]) -> None:
    for output, early in cascade.answers.items():
        ours, theirs = specs[early], specs[output]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            shown = f"{ours.dtype} {list(ours.shape)}, and {output!r} {theirs.dtype} {list(theirs.shape)}"
            raise UsageError(
                f"cascade.answers.{output}: {early!r} is {shown}: one answers for the other, so they must be alike"
            )
