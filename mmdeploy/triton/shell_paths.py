"""Keeps paths and names out of the shell: Triton's python backend starts its stubs through one, unquoted.

A space in the path of a model ends in a server that never becomes ready, and ``$(command)`` is run. So the server
is given links in a folder of our own in place of paths with such characters; names inside of a repository are
refused by lint's rule ``unsafe-name`` before a server starts.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.temporary import HeldFolder, hold_folder
from mmdeploy.triton.staging import MANIFEST
from mmdeploy.triton.swap_folder import lay_out

_SAFE = re.compile(r"[\w./+@%,:=-]+")
#: Tried in this order, after the folder that the environment names (TMPDIR).
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")


def survives_shell(text: str) -> bool:
    """Say whether a shell passes a path or name on as it is."""
    return _SAFE.fullmatch(text) is not None


def hold_safe_folder(what: str) -> HeldFolder:
    """Make a temporary folder whose path survives a shell.

    Raises:
        EnvironmentUnfitError: If there is no such place.
    """
    wanted = tempfile.gettempdir()
    for place in (wanted, *_TEMPORARY):
        if survives_shell(place):
            try:
                return hold_folder(what, place)
            except OSError:
                if place == wanted:
                    raise
    raise EnvironmentUnfitError(
        f"no temporary folder for Triton: its python backend cannot work in {wanted!r}, and "
        f"{', '.join(_TEMPORARY)} cannot be written",
        hint="set TMPDIR to a folder whose path has letters, digits and /._- only",
    )


def linked(repositories: Sequence[Path], folder: Path, swap: Path | None = None) -> dict[Path, Path]:
    """Return each repository by a path for Triton: its own, or that of a link in ``folder`` where that is unsafe.

    Of a repository with hidden folders, such as a work folder or ``.git``, the others are linked one by one: Triton
    would take each folder for a model. Where ``swap`` is given, releases are laid out there: see
    `mmdeploy.triton.swap_folder`.
    """
    found = {}
    for number, repository in enumerate(repositories):
        path, link = repository.absolute(), folder / f"repository_{number}"
        if swap is not None and (path / MANIFEST).is_file():
            laid_out = lay_out(path, swap.absolute() / str(number))
            if not survives_shell(str(laid_out)):
                link.symlink_to(laid_out, target_is_directory=True)
            found[laid_out if survives_shell(str(laid_out)) else link] = path
            continue
        children = [child for child in path.iterdir() if child.is_dir()]
        if any(child.name.startswith(".") for child in children):
            link.mkdir()
            for child in children:
                if not child.name.startswith("."):
                    (link / child.name).symlink_to(child, target_is_directory=True)
            found[link] = path
        elif survives_shell(str(path)):
            found[path] = path
        else:
            link.symlink_to(path, target_is_directory=True)
            found[link] = path
    return found
