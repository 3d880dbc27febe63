"""Ask, before anything runs, whether this environment has what a build needs: distributions and a Triton.

Nothing is imported, only looked for. Without this a build would end where the first one is missing, which for
Triton is after every step.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mmdeploy import gates
from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.target import Target
from mmdeploy.planning.fingerprints import distribution_of
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
        EnvironmentUnfitError: Naming every distribution that is missing and who needs it, or the Triton.
    """
    needs = dict.fromkeys(_REPORT, "the report")
    for options in recipe.gates:
        needs |= dict.fromkeys(gates.METHODS.of(options).REQUIRES, f"gate {method_of(options)}")
    for step in steps:
        required = step.sort.requires_of(step.sort.module(step.method, recipe.root))
        needs |= dict.fromkeys(required, step.id)
    missing = {name: who for name, who in needs.items() if importlib.util.find_spec(name) is None}
    if missing:
        listed = ", ".join(f"{distribution_of(name)} (for {who})" for name, who in missing.items())
        extra = "gpu" if recipe.target in (Target.CUDA, Target.TENSORRT) else "cpu"
        raise EnvironmentUnfitError(
            f"not installed in this environment: {listed}", hint=f"pip install 'multimodal-deploy[{extra}]'"
        )
    if recipe.gates:
        find_installation()
