"""Globs on dotted names, as recipes write them, and what to say about one that matches nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

_SHOWN = 3


def first_match(name: str, patterns: Iterable[str]) -> str | None:
    """Return the first of the patterns that matches a name; None when none does."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def unmatched(patterns: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the first of the patterns that matches none of the names; None when each matches one."""
    return next((pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)), None)


def nearest_names(pattern: str, names: Sequence[str], *, noun: str) -> str:
    """Say which names a glob that matches nothing may have meant.

    Args:
        pattern: The glob.
        names: What there is.
        noun: What the names are of, in the plural, such as ``nodes``.
    """
    plain = pattern.strip("*.")
    near = difflib.get_close_matches(plain, names, n=_SHOWN, cutoff=0.4)
    inside = [name for name in names if plain and plain.lower() in name.lower()]
    near = list(dict.fromkeys([*inside[:_SHOWN], *near]))[:_SHOWN]
    if near:
        return f"nearest: {', '.join(near)}"
    return f"{noun} are named like {', '.join(names[:_SHOWN])}" if names else f"there are no {noun}"
