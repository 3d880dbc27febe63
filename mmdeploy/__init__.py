"""mmdeploy: compile trained multimodal PyTorch models into gated, served Triton ensembles.

The same as the command line, from Python::

    import mmdeploy

    recipe = mmdeploy.load_recipe("recipes/spoken_digits/recipe.yaml", ["gates.1.max_drop=0.02"])
    print(mmdeploy.plan(recipe))
    outcome = mmdeploy.build(recipe)
    outcome.report.verdict, outcome.report.published
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmdeploy.core.version import __version__

__all__ = ["BuildReport", "Outcome", "Recipe", "Settings", "__version__", "build", "load_recipe", "plan"]

if TYPE_CHECKING:
    from mmdeploy.api import build, plan
    from mmdeploy.building.builder import Outcome
    from mmdeploy.building.settings import Settings
    from mmdeploy.recipe.loader import load_recipe
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.record.build_report import BuildReport

_HOMES = {
    "BuildReport": "mmdeploy.record.build_report",
    "Outcome": "mmdeploy.building.builder",
    "Recipe": "mmdeploy.recipe.schema",
    "Settings": "mmdeploy.building.builder",
    "build": "mmdeploy.api",
    "load_recipe": "mmdeploy.recipe.loader",
    "plan": "mmdeploy.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``import mmdeploy`` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
