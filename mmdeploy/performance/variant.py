"""Writes settings that were found as a variant of the recipe: a small file with the recipe as its ``base``.

The recipe itself is not touched, so its comments stay, and the variant can be read, changed and thrown away. It
publishes under the recipe's name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmdeploy.core.errors import UsageError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.yaml_tree import text_of
from mmdeploy.triton.staging import translated


def require_writable(recipe: Path, out: Path) -> None:
    """Refuse before anything is measured what could not be written after it.

    Raises:
        UsageError: If the recipe is a variant itself, or the file is there and was not written by this.
    """
    content = yaml.safe_load(recipe.read_text("utf-8"))
    if isinstance(content, Mapping) and "base" in content:
        raise UsageError(
            f"{recipe} has a base, and a base may have none of its own: nothing can be written as a variant of it",
            hint=f"tune its base, {content['base']}, or measure only: --dry-run",
        )
    if (
        out.parent.resolve() != recipe.parent.resolve()
        or out.suffix not in (".yaml", ".yml")
        or out.name == recipe.name
    ):
        raise UsageError(
            f"{out} is no other YAML file beside {recipe}", hint="accepted: --out FOLDER_OF_RECIPE/NAME.yaml"
        )
    if out.exists() and not out.read_text("utf-8").startswith(_MARK):
        raise UsageError(f"{out} is there, and mmdeploy tune did not write it", hint="name another file with --out")


_MARK = "# Written by mmdeploy tune"


def write(recipe: Path, out: Path, components: Mapping[str, Any], remarks: Sequence[str]) -> None:
    """Write a variant whole or not at all, once the loader takes it.

    Args:
        recipe: The base.
        out: The file.
        components: What it says of components.
        remarks: Comments in front, such as what was measured.

    Raises:
        StoreError: If it cannot be written.
        RecipeError: If the variant is no recipe; nothing is written then.
    """
    head = "".join(f"# {line}\n" for line in remarks)
    body = text_of({"base": recipe.name, "components": components}, default_flow_style=None)
    unfinished = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    with translated(f"{out} cannot be written"):
        try:
            unfinished.write_text(f"{_MARK}; what is not said here is the base's.\n{head}{body}", "utf-8")
            load_recipe(unfinished)
            unfinished.replace(out)
        finally:
            unfinished.unlink(missing_ok=True)
