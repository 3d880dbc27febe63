"""What must lie there before a recipe can be built, and is not part of it: each with the command that fetches it.

Where something is missing this is the one thing that is told of it, and not every file in it that others name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath

from pydantic import Field

from mmdeploy.recipe.declared import Section
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.yaml_tree import Keys, Node

KEY = "needs"


class Need(Section):
    """A file or a folder that is fetched before a build, such as a checkpoint."""

    path: Path = Field(description="The file or folder.", examples=["checkpoint"])
    command: str = Field(
        min_length=1,
        description="What fetches it, run in the folder that the path is relative to. It is shown where the path is "
        "not there, and never run.",
        examples=["hf download openai/clip-vit-base-patch32 --local-dir checkpoint"],
    )


def explained(
    findings: Iterable[Finding], needs: Mapping[str, Need], tree: Node, folder_at: Callable[[Keys], Path]
) -> Iterator[Finding]:
    """Give what is wrong with a recipe's files, with what has to be fetched first.

    Args:
        findings: What is wrong with single files.
        needs: Of the recipe.
        tree: The recipe as it is written.
        folder_at: Gives the folder that the path at a place of the recipe is relative to.
    """
    places = {name: (folder_at((KEY, name, "path")), need) for name, need in needs.items()}
    missing = {name for name, (folder, need) in places.items() if not (folder / need.path).exists()}
    for name in needs:
        if name in missing:
            folder, need = places[name]
            told = f"{folder / need.path} is not there: fetch it first, in {folder}:\n      {need.command}"
            yield Finding((KEY, name, "path"), told)
    for finding in findings:
        node = tree.at(finding.path)
        file = folder_at(finding.path) / node.value if node is not None and isinstance(node.value, str) else None
        inside = [
            name for name, (folder, need) in places.items() if file is not None and _lies_in(file, folder / need.path)
        ]
        if not inside:
            yield finding
        elif not missing & {*inside}:
            folder, need = places[inside[0]]
            yield replace(finding, message=f"{finding.message}; in {folder} this fetches it: {need.command}")


def _lies_in(path: Path, folder: Path) -> bool:
    """Say whether a path, or what a glob matches, is within a folder or is it, as they are written."""
    parts, outer = (_plain(one).parts for one in (path, folder))
    return parts[: len(outer)] == outer


def _plain(path: Path) -> PurePath:
    return PurePath(os.path.normpath(path.absolute()))
