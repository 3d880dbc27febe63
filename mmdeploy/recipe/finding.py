"""One thing wrong with a recipe that is well-formed."""

from __future__ import annotations

from dataclasses import dataclass

from mmdeploy.recipe.yaml_tree import Keys


@dataclass(frozen=True)
class Finding:
    """One thing wrong with the wiring.

    Attributes:
        path: The place to change.
        message: What is wrong and what to do.
        involves: Other places that the finding follows from.
        needs_all: It follows from something that is *not* in the recipe.
    """

    path: Keys
    message: str
    involves: tuple[Keys, ...] = ()
    needs_all: bool = False
