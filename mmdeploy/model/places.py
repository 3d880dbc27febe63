"""Where files lie that a recipe's code reads: which of them count, and names that stay when a project moves."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

#: This machine's state and identity: other on every machine, and no part of a model.
_MACHINE = ("/proc", "/sys", "/dev", "/etc", "/run", "/var/run")
_SYSTEM = ("/lib", "/lib64", "/bin", "/sbin", "/usr/lib", "/usr/lib64", "/usr/bin", "/usr/sbin", "/usr/include")
_OF_PREFIX = ("lib", "lib64", "bin", "include", "pyvenv.cfg")
_CODE = (".py", ".pyi", ".so")
_INSTALLED = "site-packages:"
_OF_PACKAGES = ("/site-packages", "/dist-packages")
_SITES = tuple(
    dict.fromkeys(
        os.path.normpath(place)
        for place in (
            *(sysconfig.get_path(name) for name in ("purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
            *(place for place in sys.path if place.endswith(_OF_PACKAGES)),  # of another environment, below this one
        )
    )
)
_INTERPRETER = tuple(
    dict.fromkeys(
        [os.path.normpath(sysconfig.get_path("stdlib"))]
        + [f"{prefix}/{part}" for prefix in (sys.prefix, sys.base_prefix) for part in _OF_PREFIX]
    )
)
_OWN = str(Path(__file__).parents[1])


def counts(path: str, ignored: Sequence[str] = ()) -> bool:
    """Say whether it matters that a file is read: it is no part of the machine, the interpreter or mmdeploy.

    Of installed packages only data counts: their code is told by their version.

    Args:
        path: Absolute.
        ignored: Further files and folders that do not count.
    """
    if path.endswith((".pyc", ".pyo")) or "/__pycache__" in path:
        return False
    if is_installed(path):
        return not (path.endswith(_CODE) or ".so." in path or ".dist-info/" in path or within(path, _OWN))
    return not any(within(path, place) for place in (*_MACHINE, *_SYSTEM, *_INTERPRETER, _OWN, *ignored))


def is_installed(path: str) -> bool:
    """Say whether a path lies where packages are installed."""
    return any(within(path, place) for place in _SITES)


def within(path: str, place: str) -> bool:
    """Say whether a path is a place or lies below it."""
    return path == place or path.startswith(f"{place}/")


def name_of(path: str, root: Path) -> str:
    """Return the name under which a file is told: relative to the recipe's folder, or to where packages are installed.

    Args:
        path: Absolute.
        root: Folder of the recipe, resolved.
    """
    for place in _SITES:
        if within(path, place) and not within(path, str(root)):
            return f"{_INSTALLED}{os.path.relpath(path, place)}"
    return os.path.relpath(path, root)


def found(name: str, recorded: str, root: Path) -> tuple[str, ...]:
    """Return where a file of a name may lie now.

    Code names a file outside of the recipe's folder in full, or relative to itself: once the folder has moved, only
    running the code tells which. Both places are given where both have such a file.

    Args:
        name: As `name_of` gave it.
        recorded: Where it lay when it was read.
        root: Folder of the recipe now, resolved.
    """
    if name.startswith(_INSTALLED):
        places = [f"{place}/{name.removeprefix(_INSTALLED)}" for place in _SITES]
        return (next((place for place in places if os.path.lexists(place)), places[0]),)
    here = os.path.normpath(f"{root}/{name}")
    if here == recorded or not name.startswith(".."):
        return (here,)
    both = tuple(place for place in (here, recorded) if os.path.lexists(place))
    return both or (here,)
