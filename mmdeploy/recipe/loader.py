"""From a YAML file to a `Recipe`: every problem at once, each with its file, line and path."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mmdeploy.core.errors import Problem, RecipeError
from mmdeploy.plugins.registry import beside
from mmdeploy.recipe.files import check_files
from mmdeploy.recipe.mending import Mended, mended
from mmdeploy.recipe.schema import Origin, Recipe
from mmdeploy.recipe.wiring import Finding, check
from mmdeploy.recipe.yaml_tree import Node, tree_from_file, where


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, lay overrides over it, and check everything that can be checked without running it.

    Args:
        path: The YAML file. Paths in it are relative to its folder.
        overrides: Strings ``path=value``, such as ``components.fusion.quantize.method=static``.

    Raises:
        RecipeError: With every problem found: YAML, schema, wiring, and files that are not there.
    """
    path = Path(path)
    content, tree, problems = tree_from_file(path)
    for override in overrides:
        from mmdeploy.recipe.overrides import apply_override

        problems += apply_override(tree, override)
    with beside(_folder(path, tree)):
        result = mended(tree)
    unreadable = [f"{problem.where}." for problem in problems]
    problems += [
        problem for problem in result.problems if not any(place.startswith(f"{problem.where}.") for place in unreadable)
    ]
    if result.recipe is not None:
        result.recipe._origin = Origin(path, hashlib.sha256(content).hexdigest(), tuple(overrides))
        findings = [*check(result.recipe), *check_files(result.recipe, result.recipe.root)]
        problems += [_problem(finding, result.tree) for finding in findings if _stands(finding, result)]
    if problems or result.recipe is None:
        raise RecipeError(_in_order(problems))
    return result.recipe


def _folder(path: Path, tree: Node) -> Path:
    """Return the folder that the recipe's references are relative to, before it is known to be a recipe."""
    folder = tree.child("folder")
    own = path.absolute().parent
    return (own / folder.value).resolve() if folder is not None and isinstance(folder.value, str) else own


def _stands(finding: Finding, result: Mended) -> bool:
    """Say whether a finding is one of its own, and no consequence of what was mended."""
    if finding.needs_all and result.incomplete:
        return False
    places = (finding.path, *finding.involves)
    return not any(place[: len(changed)] == changed for place in places for changed in result.changed)


def _problem(finding: Finding, tree: Node) -> Problem:
    return Problem(where(tree.closest(finding.path), finding.path), finding.message)


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Sort by line, those of overrides last; the same problem once."""

    def line(problem: Problem) -> int:
        number = problem.where.partition(" ")[0].rpartition(":")[2]
        return int(number) if number.isdecimal() else 10**9

    return sorted(dict.fromkeys(problems), key=line)
