"""Where a recipe was read from, and what its paths are relative to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """Where a recipe was read from.

    Attributes:
        path: The YAML file.
        sha256: Digest of its bytes, in hex; those of its base after them, as ``cat recipe base | sha256sum`` gives it.
        overrides: The ``path=value`` strings that were laid over it.
        base: The recipe that it is laid over, if it is a variant of one.
    """

    path: Path
    sha256: str
    overrides: tuple[str, ...] = ()
    base: Path | None = None


def folder_of_paths(file: Path, folder: Path | None) -> Path:
    """Return what the paths in a recipe's file are relative to, absolute; ``folder`` is what it says itself."""
    own = file.absolute().parent
    return own if folder is None else (own / folder).resolve()
