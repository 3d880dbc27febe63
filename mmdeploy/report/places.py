"""Where in a recipe its gates are written, for those who show verdicts beside its lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.yaml_tree import Node, tree_from_file
from mmdeploy.record.build_report import BASELINE


def lines_of_gates(path: Path, names: Sequence[str]) -> list[int]:
    """Return the line of each gate; 1 where they are not those of this file, as of a variant's base.

    The baseline, judged last, has a section of its own.

    Args:
        path: The recipe.
        names: The gates' methods.
    """
    try:
        tree: Node = tree_from_file(path)[1]
    except RecipeError:
        return [1] * len(names)
    gates, section = tree.child("gates"), tree.child(BASELINE)
    own = len(names) - names.count(BASELINE)
    last = [1 if section is None else section.line] * names.count(BASELINE)
    if gates is None or not isinstance(gates.value, list) or len(gates.value) != own:
        return [1 if gates is None else gates.line] * own + last
    return [gate.line for gate in gates.value] + last
