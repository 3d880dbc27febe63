"""Temporary folders that do not pile up: what a killed process left is removed by the next one that needs a folder.

Each is held by a lock on the folder itself, which the kernel lets go when the last process that holds it has ended,
however it ended. A folder of this user with our name that nobody holds is a left-over.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PREFIX, _SUFFIX = "mmdeploy-", ".held"


@dataclass
class HeldFolder:
    """A temporary folder and the open file that holds it.

    Attributes:
        path: The folder.
        descriptor: Open on the folder; a process that inherits it holds the folder too. None once it is removed.
    """

    path: Path
    descriptor: int | None

    def remove(self) -> None:
        """Remove the folder with what is in it, and let it go; calling it twice is fine."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def hold_folder(what: str, root: str | None = None) -> HeldFolder:
    """Make a temporary folder and hold it; left-overs beside it are swept first, once a process.

    Args:
        what: Part of its name, such as ``triton``.
        root: Where; None for the usual place.
    """
    place = root or tempfile.gettempdir()
    sweep(place)
    while True:
        path = tempfile.mkdtemp(prefix=f"{_PREFIX}{what}-", suffix=_SUFFIX, dir=place)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # swept between making and opening
            continue
        with contextlib.suppress(OSError):  # a file system without locks: then nobody can sweep there either
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if Path(path).exists():
            return HeldFolder(Path(path), descriptor)
        os.close(descriptor)  # swept between making and holding


@contextlib.contextmanager
def temporary_folder(what: str) -> Iterator[Path]:
    """Give a temporary folder that is removed at the end, or by a later process when this one is killed."""
    folder = hold_folder(what)
    try:
        yield folder.path
    finally:
        folder.remove()


@functools.cache
def sweep(root: str) -> None:
    """Remove the folders of this user that no process holds any more."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(root):
            ours = entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX)
            if ours and entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                _remove_unheld(entry.path)


def _remove_unheld(path: str) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
