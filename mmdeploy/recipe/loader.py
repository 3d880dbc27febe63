"""From a YAML file to a `Recipe`: every problem at once, each with its file, line and path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmdeploy.core.errors import Problem, RecipeError
from mmdeploy.plugins.registry import beside, is_reference
from mmdeploy.recipe import modality_rules
from mmdeploy.recipe.files import check_files
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.mending import Mended, mended
from mmdeploy.recipe.needs import explained
from mmdeploy.recipe.origin import Origin, folder_of_paths
from mmdeploy.recipe.pad_rules import pad_findings
from mmdeploy.recipe.padding import filled_up
from mmdeploy.recipe.plausible import findings
from mmdeploy.recipe.schema import REGISTRIES, Recipe
from mmdeploy.recipe.variants import Base, laid_over_its_base
from mmdeploy.recipe.wiring import check
from mmdeploy.recipe.yaml_tree import Keys, Node, tree_from_file, where


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, lay overrides over it, and check everything that can be checked without running it.

    Args:
        path: The YAML file. Paths in it are relative to its folder. If it names a base it is laid over that one first.
        overrides: Strings ``path=value``, such as ``components.fusion.quantize.method=static``; as if they were
            written in the file.

    Raises:
        RecipeError: With every problem found: YAML, schema, wiring, and files that are not there.
        PluginError: If an installed plug-in has the name of another method: it would not be clear which is meant.
    """
    path = Path(path)
    for registry in REGISTRIES.values():
        registry.installed()
    content, tree, problems = tree_from_file(path)
    try:
        tree, base, found = laid_over_its_base(path, tree)
    except RecipeError as error:
        raise RecipeError(_in_order([*problems, *error.problems], path)) from error
    problems += found
    for override in overrides:
        from mmdeploy.recipe.overrides import apply_override

        problems += apply_override(tree, override)
    with beside(_folder(path, tree), _written_in(base, tree)):
        result = mended(tree)
    unreadable = [f"{problem.where}." for problem in problems]
    problems += [
        problem for problem in result.problems if not any(place.startswith(f"{problem.where}.") for place in unreadable)
    ]
    if result.recipe is not None:
        filled = filled_up(result.recipe)
        wrong = [
            *pad_findings(result.recipe), *check(filled), *findings(filled), *modality_rules.findings(filled),
            *_wrong_files(result.recipe, result.tree, path, base),
        ]  # fmt: skip
        problems += [_problem(finding, result.tree) for finding in wrong if _stands(finding, result)]
    if problems or result.recipe is None:
        raise RecipeError(_in_order(problems, path))
    origin = Origin(path, hashlib.sha256(content).hexdigest(), tuple(overrides))
    if base is None:
        result.recipe._origin = origin
        return filled_up(result.recipe)
    digest = hashlib.sha256(content + base.content).hexdigest()
    return _told_from_its_base(result.recipe, tree, base, replace(origin, sha256=digest, base=base.path))


def _wrong_files(recipe: Recipe, tree: Node, path: Path, base: Base | None) -> list[Finding]:
    own = folder_of_paths(path, recipe.folder)
    if base is None:
        return list(explained(check_files(recipe, lambda _: own), recipe.needs, tree, lambda _: own))
    from mmdeploy.recipe.placing import advised

    def folder_at(place: Keys) -> Path:
        node = tree.at(place)
        return base.root if node is not None and base.wrote(node) else own

    return [
        replace(finding, message=advised(finding.message, tree.closest(finding.path), base, own))
        for finding in explained(check_files(recipe, folder_at), recipe.needs, tree, folder_at)
    ]


def _told_from_its_base(recipe: Recipe, tree: Node, base: Base, origin: Origin) -> Recipe:
    from mmdeploy.recipe.placing import place_in_base

    if problems := place_in_base(tree, recipe, base, origin.path):
        raise RecipeError(_in_order(problems, origin.path))
    with beside(base.root):
        placed = Recipe.model_validate_json(json.dumps(tree.plain()), strict=True)
    placed._origin = origin
    return filled_up(placed)


def _folder(path: Path, tree: Node) -> Path:
    """Return the folder that the recipe's references are relative to, before it is known to be a recipe."""
    folder = tree.child("folder")
    return folder_of_paths(path, Path(folder.value) if folder is not None and isinstance(folder.value, str) else None)


def _written_in(base: Base | None, tree: Node) -> dict[str, Path]:
    """Return the base's folder for each reference to a plug-in that was written there."""
    if base is None:
        return {}
    found, waiting = dict[str, Path](), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node.value, dict):
            waiting += node.value.values()
        elif isinstance(node.value, list):
            waiting += node.value
        elif isinstance(node.value, str) and is_reference(node.value) and base.wrote(node):
            found[node.value] = base.root
    return found


def _stands(finding: Finding, result: Mended) -> bool:
    """Say whether a finding is one of its own, and no consequence of what was mended."""
    if finding.needs_all and result.incomplete:
        return False
    places = (finding.path, *finding.involves)
    return not any(place[: len(changed)] == changed for place in places for changed in result.changed)


def _problem(finding: Finding, tree: Node) -> Problem:
    return Problem(where(tree.closest(finding.path), finding.path), finding.message)


def _in_order(problems: Sequence[Problem], path: Path) -> list[Problem]:
    """Sort by file and line, those of the base after those of the recipe, those of overrides last; each once."""

    def place(problem: Problem) -> tuple[bool, int]:
        elsewhere = not problem.where.startswith(f"{path}:")
        of_file = problem.where if elsewhere else problem.where.removeprefix(f"{path}:")
        number = of_file.partition(" ")[0].rpartition(":")[2]
        return elsewhere, int(number) if number.isdecimal() else 10**9

    return sorted(dict.fromkeys(problems), key=place)
