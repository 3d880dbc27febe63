"""``--set path=value``: values of a recipe laid over its file before it is checked."""

from __future__ import annotations

from mmdeploy.core.errors import Problem, RecipeError, did_you_mean
from mmdeploy.recipe.sections import annotation_at, is_mapping_of_names, section_at
from mmdeploy.recipe.yaml_tree import Keys, Node, dotted, value_from_text

#: Problems of overrides come after those of the file.
_LINE = 10**9


def apply_override(tree: Node, override: str) -> list[Problem]:
    """Change a recipe's tree as one ``path=value`` says; ``null`` takes the key away.

    Args:
        tree: Changed in place.
        override: Such as ``components.fusion.quantize.method=static`` or ``gates.0.max_drop=0.02``.

    Returns:
        What is wrong with it: a path that leads nowhere, or a value that is no YAML. Then nothing is changed.
    """
    try:
        _apply(tree, override)
    except RecipeError as error:
        return list(error.problems)
    return []


def _apply(tree: Node, override: str) -> None:
    origin = f"--set {override}"
    written, equals, text = override.partition("=")
    if not equals or not all(written.strip().split(".")):
        message = "must be path=value, such as components.fusion.quantize.method=static"
        raise RecipeError([Problem(origin, message)])
    if written.strip().split(".")[0] == "base":
        message = "the base is read before overrides are laid over the recipe: name it in the file"
        raise RecipeError([Problem(origin, message)])
    value = value_from_text(text, origin, _LINE)
    path = _path(tree, written.strip().split("."), origin)
    parent = _parent(tree, path, value)
    key = path[-1]
    if isinstance(parent.value, list):
        if value.value is None:
            del parent.value[int(key)]
        else:
            parent.value[int(key)] = value
    elif isinstance(parent.value, dict):
        if value.value is None:
            parent.value.pop(str(key), None)
            parent.taken[str(key)] = value
        else:
            parent.value[str(key)] = value


def _path(tree: Node, parts: list[str], origin: str) -> Keys:
    """Split a path, checking each key; a key with dots in it is found where it exists."""
    path: Keys = ()
    while parts:
        node = tree.at(path)
        taken = _existing(node, parts)
        if taken == 0:
            taken = 1
            _expect_known(tree, path, parts, origin)
        key = ".".join(parts[:taken])
        path = (*path, int(key) if node is not None and isinstance(node.value, list) else key)
        parts = parts[taken:]
    return path


def _existing(node: Node | None, parts: list[str]) -> int:
    """Return how many parts make the longest key that is there; 0 when none does."""
    if node is None:
        return 0
    if isinstance(node.value, list):
        return int(parts[0].isdecimal() and int(parts[0]) < len(node.value))
    return next((count for count in range(len(parts), 0, -1) if node.child(".".join(parts[:count]))), 0)


def _expect_known(tree: Node, path: Keys, parts: list[str], origin: str) -> None:
    """Refuse a key that is not there, unless the schema has it or the user may give it a name."""
    node, data = tree.at(path), tree.plain()
    place, key = dotted(path) or "the recipe", parts[0]
    problem = None
    if node is not None and isinstance(node.value, list):
        count = len(node.value)
        problem = f"{place} has {count} items, so an index below {count} is accepted, not {key!r}"
    elif node is not None and not isinstance(node.value, dict) and node.value is not None:
        problem = f"{place} is a single value and has no {key!r}"
    elif is_mapping_of_names(data, path):
        if len(parts) > 1:
            names = list(node.value) if node and isinstance(node.value, dict) else []
            problem = f"{place} has no {key!r}; {did_you_mean(key, names)}"
    elif (section := section_at(data, path)) is not None and annotation_at(data, (*path, key)) is None:
        problem = f"{place} has no key {key!r}; {did_you_mean(key, section.model_fields)}"
    if problem:
        raise RecipeError([Problem(origin, problem)])


def _parent(tree: Node, path: Keys, value: Node) -> Node:
    """Return the node that holds the last key, making the sections on the way."""
    node = tree
    for key in path[:-1]:
        found = node.child(key)
        if found is None or found.value is None:
            found = Node({}, value.origin, value.line)
            if isinstance(node.value, dict):
                node.value[str(key)] = found
        node = found
    if not isinstance(node.value, (dict, list)):
        node.value = {}
    return node
