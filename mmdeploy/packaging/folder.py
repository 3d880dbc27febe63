"""Puts a folder of generated files in its place: whole or not at all, and never over somebody else's.

``packaged.json`` in it lists every file by its digest. A folder that holds anything else, or a file that was changed
since, is left alone: what somebody wrote there is theirs.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.errors import UsageError
from mmdeploy.triton.staging import translated

RECORD = "packaged.json"
_HINT = "choose another --output, or move that folder away; changes belong into an overlay of your own"


def place(
    folder: Path,
    found: Mapping[str, bytes],
    copied: Mapping[str, Callable[[Path], None]],
    *,
    release_of: str,
) -> bool:
    """Write the files into a folder beside it, and move that to its place; return False where the same is there.

    Args:
        folder: The place.
        found: Content by name.
        copied: What writes a folder, by name.
        release_of: What the record says that this was made of.

    Raises:
        UsageError: If something else is there.
        StoreError: If it cannot be written; what was there is still there.
    """
    before = _recorded(folder)
    staging = folder.absolute().with_name(f".{folder.absolute().name}.{secrets.token_hex(4)}")
    with translated(f"cannot write {folder}; what was there is still there"):
        try:
            staging.mkdir(parents=True)
            for name, content in found.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).write_bytes(content)
            for name, copy in copied.items():
                copy(staging / name)
            files = {path: file_sha256(staging / path) for path in _names(staging)}
            if before == files:
                return False
            record = {"schema_version": 1, "made_by": "mmdeploy package", "release": release_of, "files": files}
            (staging / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            _open_to_read(staging)
            _swap(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return True


def _recorded(folder: Path) -> dict[str, str] | None:
    """Return the files that were written to a folder before; None where nothing was.

    Raises:
        UsageError: If it holds something else.
    """
    if not folder.exists() and not folder.is_symlink():
        return None
    if folder.is_symlink() or not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint=_HINT)
    if not any(folder.iterdir()):
        return None
    try:
        record = json.loads((folder / RECORD).read_bytes())
        files = dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder} holds something else than a package of mmdeploy: it is left alone", hint=_HINT
        ) from (error)
    there = _names(folder) - {RECORD}
    for name in sorted(there - files.keys()):
        raise UsageError(f"{folder / name} was not written by mmdeploy package: the folder is left alone", hint=_HINT)
    for name in sorted(there):
        if file_sha256(folder / name) != files[name]:
            raise UsageError(f"{folder / name} was changed since it was written: the folder is left alone", hint=_HINT)
    return files if there == files.keys() else {}


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def _open_to_read(folder: Path) -> None:
    """Let everybody read: in an image and in mounts it is another user who does, whatever the umask is here."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _swap(staging: Path, folder: Path) -> None:
    """Move a folder to its place, and what was there out of it; back again where the first fails."""
    if not folder.exists():
        staging.rename(folder)
        return
    gone = staging.with_name(f"{staging.name}.gone")
    folder.rename(gone)
    try:
        staging.rename(folder)
    except BaseException:
        gone.rename(folder)
        raise
    shutil.rmtree(gone, ignore_errors=True)
