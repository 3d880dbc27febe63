"""Which commit a recipe was built from, for whoever reads the report later."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.record.build_report import RecipeRecord

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

_SECONDS = 5.0


def recipe_record(recipe: Recipe) -> RecipeRecord:
    """Say which recipe a build is of, and at which commit its folder is."""
    origin = recipe.origin
    revision = revision_of(origin.path.parent)
    return RecipeRecord(name=recipe.name, path=origin.path, sha256=origin.sha256, revision=revision)


def revision_of(folder: Path) -> str | None:
    """Return the git commit that a folder is at, and whether anything in the folder differs from it.

    Returns:
        Such as ``3f9a…`` (40 digits), or ``3f9a… with 2 files changed``; None outside of a repository, without git, or
        where it does not answer in time.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    if not commit or changed is None:
        return commit or None
    count = len(changed.splitlines())
    return f"{commit} with {count} file{'s' if count > 1 else ''} changed" if count else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git without touching its index; None where it cannot say."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment, capture_output=True, text=True, encoding="utf-8", errors="replace",
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
