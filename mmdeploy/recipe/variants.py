"""A variant of a recipe: its file laid over its base, as one tree whose values know where they were written.

The rules, in the order in which they apply to a key that both files have:

- ``null`` in the variant takes away what the base has.
- A section with another ``method`` replaces the base's: options of one method mean nothing to another.
- Mappings are merged, key by key. Anything else replaces: values, and lists as a whole.

Keys keep the order of the base, and new ones follow: the first output is scored where a gate names none. A path is
relative to the folder of the file that it is written in. The base has no base of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.errors import Problem, RecipeError, did_you_mean, nearest
from mmdeploy.recipe.files import file_problem
from mmdeploy.recipe.origin import folder_of_paths
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.sections import annotation_at, is_mapping_of_names, methods, models, section_at, takes_nothing
from mmdeploy.recipe.yaml_tree import Keys, Node, tree_from_file, where

_KEY = "base"


@dataclass(frozen=True)
class Base:
    """The recipe that another is a variant of.

    Attributes:
        path: Its file.
        content: The file's bytes.
        root: The folder that its paths are relative to.
    """

    path: Path
    content: bytes
    root: Path

    def wrote(self, node: Node) -> bool:
        """Say whether a value was written in the base's file."""
        return node.origin == f"{self.path}:{node.line}"


def laid_over_its_base(path: Path, variant: Node) -> tuple[Node, Base | None, list[Problem]]:
    """Lay a recipe over the one that it names as its base.

    Args:
        path: The recipe's file.
        variant: What is written in it; its key ``base`` is taken away.

    Returns:
        The merged tree, its base (None, and the tree as it is, where the recipe names none), and what is wrong that
        does not keep the rest from being checked.

    Raises:
        RecipeError: If the base cannot be read, is the recipe itself, or has a base too.
    """
    assert isinstance(variant.value, dict)
    problems = _mend_key(variant)
    named = variant.value.pop(_KEY, None)
    if named is None or named.value is None:
        return variant, None, problems
    try:
        file = _file(path, named)
        content, tree, found = tree_from_file(file)
        _refuse_second_level(path, named, file, tree)
    except RecipeError as error:
        raise RecipeError([*problems, *error.problems]) from error
    root, wrong_folder = _root(file, tree)
    merged, in_vain = merge(tree, variant, str(file))
    return merged, Base(file, content, root), [*problems, *found, *wrong_folder, *in_vain]


def merge(base: Node, variant: Node, name: str) -> tuple[Node, list[Problem]]:
    """Lay one tree over another; neither is changed.

    Args:
        base: What is below.
        variant: What is above.
        name: Stands for the base in messages.

    Returns:
        The merged tree, and what the variant wants to change or take away that the base does not have.
    """
    merging = _Merging(base, name)
    return merging.merged(base, variant, ()), merging.problems


class _Merging:
    """Merges trees, collecting what a variant wants to change and the base does not have."""

    def __init__(self, base: Node, name: str) -> None:
        self._data = base.plain()
        self._name = name
        self.problems: list[Problem] = []

    def merged(self, base: Node, variant: Node, path: Keys) -> Node:
        """Return what stands at a place of both trees."""
        if not isinstance(base.value, dict) or not isinstance(variant.value, dict):
            return variant
        if self._names_another_method(base, variant, path):
            return variant
        of_names = is_mapping_of_names(self._data, path)
        values, taken = dict(base.value), dict(base.taken)
        for written, value in variant.value.items():
            key = self._meant(base, variant, written, path) if of_names else written
            if key is None:
                continue
            below = base.value.get(key)
            if below is not None and value.value is None and below.value is not None:
                del values[key]
                taken[key] = value
            else:
                values[key] = value if below is None else self.merged(below, value, (*path, key))
        return Node(values, base.origin, base.line, taken)

    def _meant(self, base: Node, variant: Node, key: str, path: Keys) -> str | None:
        """Return the name that was meant, if any: a new one is complete, or else one of the base's is changed."""
        assert isinstance(base.value, dict) and isinstance(variant.value, dict)
        place, value = (*path, key), variant.value[key]
        if key in base.value:
            return key
        needed = _needed(self._data, place)
        if value.value is None and not takes_nothing(annotation_at(self._data, place)):
            advice = "there is nothing to take away"
        elif isinstance(value.value, dict) and needed and not any(name in value.value for name in needed):
            advice = f"a new one must be given {', '.join(needed)}"
        else:
            return key
        message = f"{self._name} has no {key!r} here; {did_you_mean(key, base.value)}; {advice}"
        self.problems.append(Problem(where(value, place), message))
        return None if value.value is None else nearest(key, base.value.keys() - variant.value.keys())

    def _names_another_method(self, base: Node, variant: Node, path: Keys) -> bool:
        if not any(map(methods, models(annotation_at(self._data, path)))):
            return False
        ours, theirs = variant.child("method"), base.child("method")
        return ours is not None and theirs is not None and None is not ours.value != theirs.value


def _needed(data: object, place: Keys) -> list[str]:
    section = section_at(data, place)
    return [name for name, field in section.model_fields.items() if field.is_required()] if section else []


def _mend_key(variant: Node) -> list[Problem]:
    """Take a misspelt ``base`` for what it is: everything else would seem to be missing."""
    assert isinstance(variant.value, dict)
    keys = list(Recipe.model_fields)
    for key, node in list(variant.value.items()):
        if _KEY not in variant.value and key not in keys and nearest(key, keys) == _KEY and isinstance(node.value, str):
            variant.value[_KEY] = variant.value.pop(key)
            return [Problem(where(node, (key,)), f"unknown key {key!r}; {did_you_mean(key, keys)}")]
    return []


def _file(path: Path, named: Node) -> Path:
    """Return the base's file, written as short as it can be."""
    place = where(named, (_KEY,))
    if not isinstance(named.value, str) or not named.value:
        from mmdeploy.recipe.complaints import shown

        raise RecipeError([Problem(place, f"must be the path of another recipe, not {shown(named.plain())}")])
    if problem := file_problem(named.value, path.parent):
        if os.path.isdir(path.parent / named.value):  # noqa: PTH112 - raises for no name
            problem = f"{named.value!r} is a folder; name the recipe's YAML file in it"
        raise RecipeError([Problem(place, problem)])
    file = path.parent / named.value
    short = Path(os.path.normpath(file))  # which leads elsewhere where a link is followed by ..
    file = short if short.exists() and short.samefile(file) else file
    if file.samefile(path):
        message = f"{named.value!r} is this recipe itself; name another one, or take the key away"
        raise RecipeError([Problem(place, message)])
    return file


def _refuse_second_level(path: Path, named: Node, file: Path, tree: Node) -> None:
    assert isinstance(tree.value, dict)
    second = tree.value.pop(_KEY, None)
    if second is None or second.value is None:
        return
    target = file.parent / str(second.value)
    if target.exists() and target.samefile(path):
        message = f"a circle: {named.value!r} names this recipe as its base in turn; take one of the two keys away"
    else:
        message = f"{named.value!r} has a base of its own, and one level is accepted; name a recipe without one"
    raise RecipeError([Problem(where(named, (_KEY,)), f"{message} (the other is {where(second, (_KEY,))})")])


def _root(file: Path, tree: Node) -> tuple[Path, list[Problem]]:
    """Return the folder that the base's paths are relative to; its key ``folder`` is taken away."""
    assert isinstance(tree.value, dict)
    node = tree.value.pop("folder", None)
    if node is None or node.value is None:
        return folder_of_paths(file, None), []
    if not isinstance(node.value, str):
        from mmdeploy.recipe.complaints import shown

        message = f"must be a path, not {shown(node.plain())}"
        return folder_of_paths(file, None), [Problem(where(node, ("folder",)), message)]
    return folder_of_paths(file, Path(node.value)), []
