"""One recipe, a repository for each class of hardware, and one report that compares them.

On a machine of a class its build is judged and published as any other. What can be built ahead of time for another
class is built here, and is *inconclusive*: figures of this machine say nothing about that one. The rest needs a machine
of the class: a node of a cluster, or the same command there, with the same work folder and output, which fills the row
in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.building.settings import Settings
from mmdeploy.cluster.connection import connected
from mmdeploy.core.errors import (
    EXIT_GATE_FAILED,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    EXIT_STEP_FAILED,
    RecipeError,
    UsageError,
)
from mmdeploy.core.store import translated
from mmdeploy.core.target import this_hardware
from mmdeploy.core.version import __version__
from mmdeploy.engines.trt_run import compute_capabilities
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.report import write_file
from mmdeploy.studies.classes import HardwareClass, classes_here
from mmdeploy.studies.matrix_cell import ROW, Cell, Row
from mmdeploy.studies.matrix_elsewhere import Elsewhere


@dataclass(frozen=True)
class Matrix:
    """The rows of all classes that were asked for.

    Attributes:
        recipe: The recipe's file.
        name: Of its ensemble.
        folder: Of the reports.
        rows: In the order in which they were asked for.
        here: Classes that this machine is of.
        machine: This machine.
    """

    recipe: Path
    name: str
    folder: Path
    rows: tuple[Row, ...]
    here: tuple[str, ...]
    machine: str

    @property
    def exit_code(self) -> int:
        """What the command ends with: the worst of all classes."""
        statuses = {row.status for row in self.rows}
        if "broke" in statuses:
            return EXIT_STEP_FAILED
        if "fail" in statuses:
            return EXIT_GATE_FAILED
        return EXIT_PASS if statuses == {"pass"} else EXIT_INCONCLUSIVE

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        rows = [{key: value for key, value in row.to_json().items() if key != "identity"} for row in self.rows]
        return {
            "schema_version": 1, "mmdeploy_version": __version__, "recipe": str(self.recipe), "name": self.name,
            "machine": self.machine, "classes_here": [*self.here], "rows": rows,
        }  # fmt: skip


def run_matrix(
    path: Path,
    overrides: Sequence[str],
    classes: Sequence[HardwareClass],
    settings: Settings,
    progress: Callable[[Row], None] = lambda row: None,
) -> Matrix:
    """Build a recipe for each class: on this machine, on nodes of a cluster that are of it, or as far as can be here.

    Args:
        path: The recipe.
        overrides: Laid over it for all classes.
        classes: The classes.
        settings: How to build; a class's repository goes into a folder of its name in the destination.
        progress: Told of each row.

    Raises:
        RecipeError: If the recipe is wrong.
        UsageError: If it cannot be one for a class, or nodes have no place for results; before anything is built.
        EnvironmentUnfitError: If there is no cluster where one is named.
        StoreError: If the work folder cannot be written.
    """
    plain = load_recipe(path, overrides)
    recipes = [_recipe_for(one, plain, path, overrides) for one in classes]
    folder = (settings.workdir / "matrix" / plain.name).absolute()
    hardware, capabilities = this_hardware(), compute_capabilities()
    cells = [
        Cell(one, recipe, settings, folder / one.name, hardware, one.is_here(hardware, capabilities))
        for one, recipe in zip(classes, recipes, strict=True)
    ]
    rows = []
    with connected(settings.on), Elsewhere(cells, settings) as elsewhere:
        for cell in cells:
            row = elsewhere.row(cell)
            with translated(cell.folder):
                cell.folder.mkdir(parents=True, exist_ok=True)
            write_file(cell.folder / ROW, json.dumps(row.to_json(), indent=1) + "\n")
            rows.append(row)
            progress(row)
    return Matrix(path, plain.name, folder, tuple(rows), classes_here(hardware), str(hardware))


def _recipe_for(one: HardwareClass, plain: Recipe, path: Path, overrides: Sequence[str]) -> Recipe:
    try:
        return load_recipe(path, (*overrides, *one.overrides(plain)))
    except RecipeError as error:
        told = "\n".join(f"    {problem}" for problem in error.problems)
        raise UsageError(f"the recipe cannot be built for {one.name}:\n{told}") from error
