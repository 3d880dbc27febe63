"""Room for temporary files: the folder that TMPDIR names may be smaller than the disk that everything else is on.

Libraries write there and tell badly when it is full: a model cut off in the middle is "no valid model".
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mmdeploy.core.errors import StoreError

#: Less than this is no room for a build.
LEAST_BYTES = 2**24
_HINT = "free some space there, or set TMPDIR to a folder on another disk"


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    there = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    return shutil.disk_usage(there).free


def require_room() -> None:
    """Do nothing where there is room for temporary files.

    Raises:
        StoreError: If there is none.
    """
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StoreError(f"no folder for temporary files can be written: {error}", hint=_HINT) from error
    if told := tight(LEAST_BYTES):
        raise StoreError(f"no space left in TMPDIR: {told}", hint=f"{_HINT} (now {folder})")


def tight(needed_bytes: int) -> str:
    """Say that fewer bytes are free for temporary files than are needed; empty where there are enough."""
    folder = Path(tempfile.gettempdir())
    free = free_bytes(folder)
    if free >= needed_bytes:
        return ""
    return f"{folder} has {free / 2**20:.3g} MiB free, temporary files need {needed_bytes / 2**20:.3g}"


def out_of_space(place: Path | str) -> StoreError:
    """Return the error for a write that found no space: what was written, or else the folder for temporary files."""
    temporary = Path(tempfile.gettempdir())
    if free_bytes(temporary) < free_bytes(Path(place)):
        return StoreError(f"no space left in TMPDIR ({temporary}), where temporary files are written", hint=_HINT)
    return StoreError(
        f"no space left under {place}; nothing was half-written",
        hint="free some space, or name a folder on another disk with --workdir",
    )
