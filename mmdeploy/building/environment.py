"""Ask, before anything runs, whether this environment has what a build needs: distributions and a Triton.

Nothing is imported, only looked for. Without this a build would end where the first one is missing, which for
Triton is after every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mmdeploy import gates
from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.open_files import require_open_files
from mmdeploy.core.target import Target
from mmdeploy.model.distributions import distribution_of
from mmdeploy.plugins.loading import Plugin
from mmdeploy.triton.install import find_installation

if TYPE_CHECKING:
    from mmdeploy.planning.steps import Step
    from mmdeploy.recipe.schema import Recipe

#: What the report's plots are drawn with.
_REPORT = ("matplotlib",)


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
    for step in steps:
        module = step.sort.module(step.method, recipe.root)
        asked.append((step.sort.requires_of(module), step.id, module))
    missing = {name: (who, module) for names, who, module in asked for name in names if find_spec(name) is None}
    if missing:
        listed = ", ".join(f"{distribution_of(name)} (for {who})" for name, (who, _) in missing.items())
        raise EnvironmentUnfitError(f"not installed in this environment: {listed}", hint=_hint(recipe, missing))
    if recipe.gates:
        find_installation()


def _hint(recipe: Recipe, missing: Mapping[str, tuple[str, object]]) -> str:
    """Say what to install: our own extra, and by name what only plug-ins need."""
    others = [distribution_of(name) for name, (_, module) in missing.items() if isinstance(module, Plugin)]
    extra = "gpu" if recipe.target in (Target.CUDA, Target.TENSORRT) else "cpu"
    own = [f"'multimodal-deploy[{extra}]'"] if len(others) < len(missing) else []
    return f"pip install {' '.join([*own, *others])}"
