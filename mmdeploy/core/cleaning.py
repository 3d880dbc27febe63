"""What may go from a work folder: what no build needs, found first and removed then.

Kept whatever its age is what the last build of any recipe was made of, so that it can be built again at once. Of the
rest goes what was of no use for some time, and, to come down to a size, what was of use longest ago.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from mmdeploy.core.store import Store, translated


@dataclass(frozen=True)
class Spare:
    """Something that may go.

    Attributes:
        kind: ``entry`` of the store, ``scratch`` of a step that was killed, or ``run``.
        name: The entry's key, or the run's recipe and id.
        path: Its folder.
        bytes: Its size on disk.
        idle_s: For how long it was of no use.
        why: Why it may go.
    """

    kind: str
    name: str
    path: Path
    bytes: int
    idle_s: float
    why: str = ""


def spare(workdir: Path, *, idle_days: float, most_bytes: int | None = None) -> tuple[Spare, ...]:
    """Find what may go from a work folder.

    Args:
        workdir: Folder of the store and of the runs.
        idle_days: What was of no use for so long goes.
        most_bytes: What entries of the store may come to; None for no limit. What the last builds were made of stays
            even where it is more.
    """
    root, now = workdir / "store", time.time()
    needed = _needed(root)
    entries = [_seen("entry", path, now) for path in _folders(root / "entries")]
    idle = [one for one in entries if _identity(one.path) not in needed]
    idle.sort(key=lambda one: -one.idle_s)
    old = [one for one in idle if one.idle_s > idle_days * 86400]
    idle_text = f"of no use for {idle_days:g} days"
    found = [replace(one, why=idle_text) for one in old]
    if most_bytes is not None:
        left = sum(one.bytes for one in entries) - sum(one.bytes for one in old)
        for one in idle[len(old) :]:
            if left <= most_bytes:
                break
            left -= one.bytes
            found.append(replace(one, why="to come down to the size"))
    scratch = (_seen("scratch", path, now) for path in _folders(root / "scratch"))
    runs = (_seen("run", path, now) for recipe in _folders(workdir / "runs") for path in _folders(recipe)[:-1])
    found += [replace(one, why=idle_text) for one in (*scratch, *runs) if one.idle_s > idle_days * 86400]
    return tuple(found)


def clean(workdir: Path, *, idle_days: float, most_bytes: int | None = None) -> tuple[Spare, ...]:
    """Find what may go, while no build is running, and remove it; return what was removed.

    Raises:
        StoreError: If a build is running there, or something cannot be removed.
    """
    if not (workdir / "store").is_dir():
        return ()
    store = Store(workdir / "store")
    with store.alone(), translated(store.root):
        found = spare(workdir, idle_days=idle_days, most_bytes=most_bytes)
        for one in found:
            if one.kind == "entry":  # an entry goes whole, as it comes
                with store.staging() as staging:
                    one.path.rename(staging / one.path.name)
            else:
                shutil.rmtree(one.path)
        _sweep(store.root)
    return found


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _needed(root: Path) -> frozenset[str]:
    """Return the identities of what the last builds of all recipes were made of."""
    return frozenset(filter(None, (_canonical(path) for path in root.glob("latest/*/*.json"))))


def _identity(entry: Path) -> str | None:
    return _canonical(entry / "identity.json")


def _canonical(path: Path) -> str | None:
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True)
    except (OSError, ValueError):
        return None


def _seen(kind: str, path: Path, now: float) -> Spare:
    name = f"{path.parent.name}/{path.name}" if kind == "run" else path.name
    return Spare(kind, name, path, size_of(path), max(0.0, now - path.stat().st_mtime))


def _folders(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _sweep(root: Path) -> None:
    """Remove locks and notes of what is gone, and what digests were of that nobody remembers."""
    for lock in root.glob("locks/*.lock"):
        if not (root / "entries" / lock.stem).is_dir():
            lock.unlink()
    for note in root.glob("shared/*/*"):
        if note.is_dir():  # files of entries that were looked into
            shutil.rmtree(note)
        elif not (root / "entries" / note.name).is_dir():
            note.unlink()
    remembered = "".join(path.read_text(encoding="utf-8") for path in root.glob("latest/*/*.json"))
    for parts in root.glob("parts/*.json"):
        if parts.stem not in remembered:
            parts.unlink()
