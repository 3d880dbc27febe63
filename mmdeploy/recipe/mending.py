"""Mend a recipe that does not fit the schema, so that one look finds every problem, not only the first layer.

What was probably meant is put in its place (a misspelt key, an unknown method); any other value that does not
fit is taken out. Then the recipe is validated again, and what is new is reported, unless it follows from the
mending. The mended recipe is never built: it only lets the checks that need a whole recipe run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mmdeploy.core.errors import Problem
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.yaml_tree import Keys, Node, where

if TYPE_CHECKING:
    from mmdeploy.recipe.complaints import Complaint

_ROUNDS = 30
#: Stand for what must be there and cannot be used; ``*`` is any name.
_PLACEHOLDERS: dict[Keys, Any] = {
    ("schema_version",): 1,
    ("name",): "unnamed",
    ("target",): "cpu",
    ("model",): {"factory": "unnamed.py:unnamed"},
    ("inputs",): {},
    ("inputs", "*"): {"dtype": "FP32", "shape": [-1]},
    ("components",): {},
    ("components", "*", "module"): "unnamed",
    ("outputs",): {},
}


_WIRED = ("inputs", "preprocess", "components", "postprocess", "outputs")


@dataclass
class Mended:
    """What came of validating a tree.

    Attributes:
        tree: The tree as it was validated last; changed by mending.
        recipe: The recipe, or None when mending did not help.
        problems: What is wrong, in the order found.
        changed: Places where something was wrong or was mended.
        incomplete: Mending took away a tensor, a wire or a component.
    """

    tree: Node
    recipe: Recipe | None = None
    problems: list[Problem] = field(default_factory=list)
    changed: set[Keys] = field(default_factory=set)
    incomplete: bool = False


def mended(tree: Node) -> Mended:
    """Validate a tree against the recipe's schema, mending it where it does not fit."""
    result = Mended(tree)
    for _ in range(_ROUNDS):
        try:
            result.recipe = Recipe.model_validate_json(json.dumps(tree.plain()), strict=True)
        except ValidationError as error:
            from mmdeploy.recipe.complaints import (
                complaints,  # what says why a recipe is wrong is not needed for a right one
            )

            _mend_all(complaints(error, tree), result)
        else:
            break
    return result


def _mend_all(found: list[Complaint], result: Mended) -> None:
    earlier = frozenset(result.changed)
    for complaint in found:
        if not any(place[: len(complaint.path)] == complaint.path for place in earlier):
            node = result.tree.closest(complaint.path)
            result.problems.append(Problem(where(node, complaint.path), complaint.message))
    gone: set[Keys] = set()
    for complaint in found:
        result.changed.add(complaint.path)
        if complaint.meant is not None and _put_right(result.tree, complaint):
            continue
        if any(complaint.path[: len(place)] == place for place in gone):
            continue
        place, replaced = _take_out(result.tree, complaint.path)
        gone.add(place)
        result.incomplete = result.incomplete or (_is_wiring(place) and (not replaced or len(place) == 1))
    result.changed |= gone


def _put_right(tree: Node, complaint: Complaint) -> bool:
    """Put what was meant in the place of what was written; say whether that could be done."""
    *around, key = complaint.path
    parent = tree.at(tuple(around))
    if parent is None or not isinstance(parent.value, dict) or complaint.meant is None:
        return False
    wrong = parent.value.get(str(key))
    if wrong is None or (complaint.meant_key and complaint.meant in parent.value):
        return False
    if complaint.meant_key:
        parent.value = {complaint.meant if name == key else name: node for name, node in parent.value.items()}
    else:
        wrong.value = complaint.meant
    return True


def _take_out(tree: Node, path: Keys) -> tuple[Keys, bool]:
    """Take a value out, or the section around it when it is not there or an item of a list.

    Returns:
        The place of what was taken out, and whether a placeholder was put there.
    """
    while path:
        parent = tree.at(path[:-1])
        if parent is not None and isinstance(parent.value, dict):
            wildcard = (*path[:1], "*", *path[2:]) if len(path) > 1 else path
            if wildcard in _PLACEHOLDERS:
                parent.value[str(path[-1])] = _node(_PLACEHOLDERS[wildcard], parent.closest(path[-1:]))
                return path, True
            if parent.value.pop(str(path[-1]), None) is not None:
                return path, False
        path = path[:-1]
    return path, False


def _node(value: Any, near: Node) -> Node:
    if isinstance(value, dict):
        return Node({key: _node(inner, near) for key, inner in value.items()}, near.origin, near.line)
    if isinstance(value, list):
        return Node([_node(inner, near) for inner in value], near.origin, near.line)
    return Node(value, near.origin, near.line)


def _is_wiring(place: Keys) -> bool:
    return place[:1] in {(section,) for section in _WIRED} and (len(place) <= 2 or place[2] in ("inputs", "outputs"))
