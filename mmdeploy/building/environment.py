"""Ask, before anything runs, whether this environment has what a build needs: distributions and a Triton.

Nothing is imported, only looked for. Without this a build would end where the first one is missing, which for
Triton is after every step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mmdeploy import engines, gates
from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.open_files import require_open_files
from mmdeploy.core.target import Target
from mmdeploy.model.adapter_files import EXTRA, PEFT
from mmdeploy.model.distributions import distribution_of, requirement_of
from mmdeploy.plugins.loading import Plugin
from mmdeploy.preprocess import METHODS
from mmdeploy.recipe.media_wiring import steps_of
from mmdeploy.triton.install import find_installation

if TYPE_CHECKING:
    from mmdeploy.planning.steps import Step
    from mmdeploy.recipe.schema import Recipe

#: What the report's plots are drawn with.
_REPORT = ("matplotlib",)
#: Distributions of packages that have several, by the name that they are imported under.
_SOLD_AS = {"faiss": "faiss-cpu"}


def require_environment(recipe: Recipe, steps: Iterable[Step]) -> None:
    """Do nothing when the steps can run, and what they make can be judged, here.

    Args:
        recipe: The recipe; its gates need libraries and a Triton.
        steps: The steps that are to run.

    Raises:
        EnvironmentUnfitError: Naming every distribution that is missing and who needs it, or the Triton; or where
            too few files may be open at once.
    """
    require_open_files()
    asked: list[tuple[Iterable[str], str, object]] = [(_REPORT, "the report", None)]
    for options in recipe.gates:
        gate = gates.METHODS.of(options)
        asked.append((gate.REQUIRES, f"gate {method_of(options)}", gate))
    steps = tuple(steps)
    for step in steps:
        module = step.sort.module(step.method, recipe.root)
        asked.append((step.sort.requires_of(module), step.id, module))
    missing = {name: (who, module) for names, who, module in asked for name in names if find_spec(name) is None}
    media = _missing_of_media(recipe) | _missing_of_adapters(recipe, steps)
    if missing or media:
        needed = {name: who for name, (who, _) in missing.items()} | {name: who for name, (who, _) in media.items()}
        listed = ", ".join(f"{distribution_of(name)} (for {who})" for name, who in needed.items())
        raise EnvironmentUnfitError(f"not installed in this environment: {listed}", hint=_hint(recipe, missing, media))
    for step in steps:
        if step.sort.methods is engines.METHODS and (why := _unbuildable(recipe, step)):
            raise EnvironmentUnfitError(f"{step.id}, engine {step.method}: {why}")
    if recipe.gates:
        find_installation()


def _unbuildable(recipe: Recipe, step: Step) -> str | None:
    engine = engines.METHODS.find(step.method, recipe.root)
    return engine.unbuildable(engine.Options.model_validate_json(json.dumps(dict(step.options))))


def _missing_of_media(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Return what steps of ``preprocess`` and ``postprocess`` import and is missing: who needs it, what to install."""
    found: dict[str, tuple[str, str]] = {}
    for section, name, step in steps_of(recipe):
        own = () if (method := METHODS.get(step.name_of_method)) is None else method.REQUIRES
        for package in step.requires:
            if not requirement_of(package):
                what = "'multimodal-deploy[media]'" if package in own else _SOLD_AS.get(package, package)
                found[package] = f"{section}.{name}", what
    return found


def _missing_of_adapters(recipe: Recipe, steps: tuple[Step, ...]) -> dict[str, tuple[str, str]]:
    """Return what merges adapters into the model and is missing."""
    needed = bool(recipe.model.adapters) and bool(steps)
    return {PEFT: ("model.adapters", EXTRA)} if needed and find_spec(PEFT) is None else {}


def _hint(recipe: Recipe, missing: Mapping[str, tuple[str, object]], media: Mapping[str, tuple[str, str]]) -> str:
    """Say what to install: our own extras, and by name what only plug-ins and steps of the recipe need."""
    others = [distribution_of(name) for name, (_, module) in missing.items() if isinstance(module, Plugin)]
    extra = "gpu" if recipe.target in (Target.CUDA, Target.TENSORRT) else "cpu"
    own = [f"'multimodal-deploy[{extra}]'"] if len(others) < len(missing) else []
    return f"pip install {' '.join(dict.fromkeys([*own, *others, *(what for _, what in media.values())]))}"
