"""The paths of a variant, told from its own folder, rewritten to be told from the folder of its base.

A path is what the schema calls a `Path` or a `Glob`, a file that the arguments of a metric name, and the file of any
``path.py:callable`` or of a method that is plugged in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath

from mmdeploy.core.errors import Problem
from mmdeploy.recipe.files import argument_files
from mmdeploy.recipe.origin import folder_of_paths
from mmdeploy.recipe.schema import Glob, Recipe
from mmdeploy.recipe.sections import annotation_at, members
from mmdeploy.recipe.variants import Base
from mmdeploy.recipe.yaml_tree import Keys, Node, where

_FILE_REFERENCE = re.compile(r"[^:]+\.py:[A-Za-z_][A-Za-z0-9_.]*")


def place_in_base(tree: Node, recipe: Recipe, base: Base, file: Path) -> list[Problem]:
    """Make every path of a merged tree relative to the folder of the base, and say so in its key ``folder``.

    Args:
        tree: Changed in place.
        recipe: What the tree was read as.
        base: What it was laid over.
        file: The variant's.

    Returns:
        Paths that cannot be told from there.
    """
    assert isinstance(tree.value, dict)
    problems, own, arguments = [], folder_of_paths(file, recipe.folder), argument_files(recipe)
    for place, node in _paths(tree, arguments.keys()):
        if base.wrote(node):
            continue
        written = str(node.value)
        path, colon, name = _split(written)
        node.value = f"{told_from(base.root, path, own)}{colon}{name}"
        if colon and not _FILE_REFERENCE.fullmatch(node.value):
            message = f"{written!r} is {node.value!r} from {base.root}; a folder in a reference has no ':' in its name"
            problems.append(Problem(where(node, place), message))
    folder = told_from(file.absolute().parent, ".", base.root)
    tree.value.pop("folder", None)
    if folder != ".":
        tree.value["folder"] = Node(folder, tree.origin, tree.line)
    return problems


def advised(message: str, node: Node, base: Base, own: Path) -> str:
    """Return what is wrong with a path of a variant, with its better guess where it would be right in the base."""
    path = _split(str(node.value))[0]
    if base.wrote(node) or (own / path).exists() or not (base.root / path).exists():
        return message
    meant = told_from(own, path, base.root)
    wrong = message.partition("; did you mean")[0]
    return f"{wrong}; did you mean {meant!r}? Paths are relative to the file that they are written in"


def told_from(root: Path, path: str, folder: Path) -> str:
    """Write a path relative to ``folder`` as one relative to ``root``; one that is absolute stays.

    Both folders exist. Links are followed where ``..`` would lead elsewhere without.
    """
    if PurePath(path).is_absolute():
        return path
    parts = PurePath(path).parts
    up = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    start, rest = folder.joinpath(*parts[:up]).resolve(), PurePath(*parts[up:])
    if ".." in rest.parts:
        return (PurePath(os.path.relpath(start, root.resolve())) / rest).as_posix()
    return os.path.relpath(start / rest, root.resolve())


def _split(written: str) -> tuple[str, str, str]:
    """Split a reference to a file at its colon; a path has none to split at."""
    return written.rpartition(":") if _FILE_REFERENCE.fullmatch(written) else (written, "", "")


def _paths(tree: Node, known: Collection[Keys]) -> Iterator[tuple[Keys, Node]]:
    """Give each value that is a path or a reference to a file, but for those that say what paths are relative to."""
    data = tree.plain()
    waiting: list[tuple[Keys, Node]] = [((), tree)]
    while waiting:
        place, node = waiting.pop()
        if isinstance(node.value, dict):
            waiting += [((*place, key), below) for key, below in node.value.items()]
        elif isinstance(node.value, list):
            waiting += [((*place, index), below) for index, below in enumerate(node.value)]
        elif isinstance(node.value, str) and (
            place in known
            or (place[-1:] == ("method",) and node.value.partition(":")[0].endswith(".py"))
            or (place != ("folder",) and _is_path(node.value, annotation_at(data, place)))
        ):
            yield place, node


def _is_path(value: str, annotation: object) -> bool:
    return (
        annotation == Glob
        or Path in members(annotation)
        or (annotation is not None and _FILE_REFERENCE.fullmatch(value) is not None)
    )
