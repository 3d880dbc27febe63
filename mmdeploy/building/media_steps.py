"""The steps of ``preprocess`` and ``postprocess`` as a release serves them: their code, files, tensors and packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy import preprocess
from mmdeploy.core.artifact import Array, Artifact, TensorSpec
from mmdeploy.core.errors import EnvironmentUnfitError, UsageError
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.model.distributions import requirement_of
from mmdeploy.model.imports import code_behind
from mmdeploy.planning.recipe_inputs import matching
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.preprocess import Spec, WiredMethod
from mmdeploy.recipe.media import MediaStep, OwnStep, in_order
from mmdeploy.triton.options import InstanceGroup, Serving
from mmdeploy.triton.served_step import REQUESTS_CODE, ServedStep
from mmdeploy.worker.media import preparation

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: ``model.py`` of every such step.
CODE = REQUESTS_CODE.with_name("media_step.py")
_PACKAGE = Path(preprocess.__file__).parent


def first_sample(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> dict[str, Array]:
    """Return what a client sends in the first recorded sample, and what ``preprocess`` makes of it.

    Empty where there are no such steps, or no samples were recorded.
    """
    prepare = preparation(recipe)
    found = next((key for key in ("calibration", "evaluation", "validation") if DATA_SETS[key] in artifacts), None)
    if prepare is None or found is None:
        return {}
    folder = artifacts[DATA_SETS[found]].path.parent
    sample = SampleSet.open(folder, str(getattr(recipe.data, found)), tuple(recipe.inputs)).batch(0, 1)
    return prepare.tensors({name: array[0] for name, array in sample.items()})


def served_steps(
    recipe: Recipe, computed: Mapping[str, TensorSpec], sample: Mapping[str, Array]
) -> tuple[tuple[ServedStep, ...], dict[str, TensorSpec]]:
    """Describe the steps of a recipe, and the tensors that those of ``postprocess`` write.

    Args:
        recipe: With the sections.
        computed: What the components write, by tensor.
        sample: Of `first_sample`.

    Raises:
        UsageError: If a step does not take what the components give.
    """
    found: list[ServedStep] = []
    sent = {spec.name: spec for spec in recipe.input_specs}
    known = {"preprocess": sent, "postprocess": dict(computed)}
    for section, specs in known.items():
        steps: Mapping[str, MediaStep] = getattr(recipe, section)
        for name in in_order(steps):
            step, tensors = _step(recipe, name, steps[name], specs, sample)
            specs |= tensors
            found.append(step)
    return tuple(found), known["postprocess"]


def _step(
    recipe: Recipe, name: str, section: MediaStep, specs: Mapping[str, TensorSpec], sample: Mapping[str, Array]
) -> tuple[ServedStep, dict[str, TensorSpec]]:
    files = {option: f"{option}-{path.name}" for option, path in section.paths.items()}
    wired = WiredMethod.from_json(section.described())
    described = section.described(files)
    described["options"] = {**described["options"], **wired.settled()}
    try:
        wired.look_at(recipe.root)
        held = wired.specs(
            {tensor: Spec(specs[tensor].dtype, specs[tensor].shape) for tensor in section.inputs.values()}
        )
    except (ValueError, KeyError, OSError) as error:
        raise UsageError(f"the step {name} cannot be served behind what was built: {error}") from error
    read_later = {spec.name: spec for spec in recipe.source_specs}  # with the names of sizes
    written = {
        tensor: read_later.get(tensor, TensorSpec(tensor, spec.dtype, spec.shape)) for tensor, spec in held.items()
    }
    outputs = section.tensors
    beside = {files[option]: recipe.root / path for option, path in section.paths.items()}
    step = ServedStep(
        name=f"{recipe.name}.{name}",
        code=CODE,
        takes=tuple(_named(specs[tensor], own) for own, tensor in section.inputs.items()),
        gives=tuple(_named(written[tensor], own) for own, tensor in outputs.items()),
        inputs=dict(section.inputs),
        outputs=outputs,
        options=described,
        beside={"mmdeploy_preprocess": _PACKAGE, "mmdeploy_requests.py": REQUESTS_CODE, **beside}
        | dict(_own_files(recipe, section)),
        requires=_requirements(recipe, name, section),
        input_rules=_input_rules(recipe, section),
        serving=Serving(
            max_batch_size=recipe.max_batch_size,
            instance_group=InstanceGroup(count=section.instances, kind="cpu"),
        ),
        sample={own: sample[tensor] for own, tensor in section.inputs.items() if tensor in sample},
    )
    return step, written


def _requirements(recipe: Recipe, name: str, section: MediaStep) -> tuple[str, ...]:
    """Return the packages that a step imports, with their versions; of the recipe's own code those that are seen."""
    found = {one: requirement_of(one) for one in section.requires}
    if missing := [one for one, line in found.items() if not line]:
        what = " and ".join(missing)
        raise EnvironmentUnfitError(f"{what} is not installed, and the step {name} imports it", hint="install it")
    seen = code_behind(section.method, recipe.root).libraries if isinstance(section, OwnStep) else ()
    return tuple(dict.fromkeys([*found.values(), *filter(None, map(requirement_of, seen))]))


def _input_rules(recipe: Recipe, section: MediaStep) -> dict[str, dict[str, Any]]:
    """Say what clients call a step's inputs, and what values and lengths these may have."""
    sent = {spec.name: spec for spec in recipe.input_specs}
    rules: dict[str, dict[str, Any]] = {}
    for own, tensor in section.inputs.items():
        rules[own] = {} if own == tensor else {"tensor": tensor}
        if tensor in sent and recipe.inputs[tensor].range is not None:
            rules[own]["range"] = list(recipe.inputs[tensor].range or ())
        if tensor in sent and any(sent[tensor].sizes):
            rules[own]["sizes"] = [size and size.rule for size in sent[tensor].sizes]
    return {own: rule for own, rule in rules.items() if rule}


def _named(spec: TensorSpec, name: str) -> TensorSpec:
    return replace(spec, name=name)


def _own_files(recipe: Recipe, section: MediaStep) -> Iterator[tuple[str, Path]]:
    """Give the recipe's own code and the files that it reads, by their places relative to the recipe."""
    if not isinstance(section, OwnStep):
        return
    root = recipe.root.resolve()
    paths = [*code_behind(section.method, root).files, *(path.resolve() for path in matching(section.files, root))]
    for path in paths:
        if not path.is_relative_to(root):
            raise UsageError(f"{section.method} needs {path}, which is not beside the recipe", hint="copy it there")
        yield path.relative_to(root).as_posix(), path
