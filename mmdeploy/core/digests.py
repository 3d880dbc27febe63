"""Facts about files that are taken once and kept: what a file's content is, as long as the file stays as it is.

Reading gigabytes to find that nothing changed takes seconds; asking for times and sizes takes microseconds. So a fact
(a digest, the digests of the tensors in it) is kept together with the state of the file that it was taken from:
size, inode and both times. The change time cannot be set, so a file that was edited and given its old modification
time is read again. A fact is not kept when the file changed just before it was taken: a second edit within the same
tick of the file system's clock would not show in the times (git calls this "racily clean"). A large file that was just
written is left alone for that tick first: to read it once more the next time would take longer.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.file_state import SECOND_NS, TICK_NS, file_state, is_settled

#: Bump when a fact of the same name comes to mean something else.
_VERSION = 1
#: To read a file of this size takes about as long as the tick.
_LARGE_BYTES = 32 * 2**20
#: Facts kept at most; those taken last stay.
_MOST = 200_000
_THREADS = 4


class FileFacts:
    """Facts about files, kept in one JSON file; safe for several threads, and for several processes at once."""

    def __init__(self, kept_in: Path | None = None) -> None:
        """Read what is kept; None keeps facts in memory only."""
        self._place = kept_in
        self._facts = _read(kept_in) if kept_in else {}
        self._new: dict[str, list[object]] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file's content in hex."""
        return self.of(path, "sha256", file_sha256)

    def sha256_of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the SHA-256 of several files; those that must be read are read side by side."""
        from concurrent.futures import ThreadPoolExecutor

        paths = list(paths)
        unknown = [path for path in paths if self._known(path, "sha256") is None]
        if len(unknown) > 1:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(self.sha256, unknown))
        return {path: self.sha256(path) for path in paths}

    def of(self, path: Path, what: str, take: Callable[[Path], str]) -> str:
        """Return a fact about a file.

        Args:
            path: The file.
            what: Name of the fact.
            take: Takes the fact from the file when it is not known.

        Raises:
            OSError: If the file cannot be read.
        """
        known = self._known(path, what)
        if known is not None:
            return known
        before = file_state(path)
        if before[0] >= _LARGE_BYTES and not is_settled(before, time.time_ns()):
            time.sleep(TICK_NS / SECOND_NS)
            before = file_state(path)
        now = time.time_ns()
        fact = take(path)
        if is_settled(before, now) and file_state(path) == before:
            with self._lock:
                self._new[_name(path, what)] = [*before, fact]
        return fact

    def moved(self, folder: Path, to: Path) -> None:
        """Know what was taken of a folder's files under their new names: by one rename they stay as they are."""
        before, after = f" {os.path.abspath(folder)}{os.sep}", f" {os.path.abspath(to)}{os.sep}"  # noqa: PTH100
        with self._lock:
            self._new = {name.replace(before, after): fact for name, fact in self._new.items()}

    def save(self) -> None:
        """Keep what was taken since; what others kept meanwhile stays."""
        if self._place is None or not self._new:
            return
        kept = _read(self._place)
        for name in self._new:
            kept.pop(name, None)
        kept |= self._new
        for name in list(kept)[: max(0, len(kept) - _MOST)]:
            del kept[name]
        self._facts |= self._new
        self._new = {}
        staged = self._place.with_name(f"{self._place.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            staged.write_text(json.dumps({"version": _VERSION, "facts": kept}, separators=(",", ":")), encoding="utf-8")
            staged.replace(self._place)
        except OSError:  # taken again the next time
            staged.unlink(missing_ok=True)

    def reload(self) -> None:
        """Read what others have kept since."""
        self.save()
        self._facts = _read(self._place) if self._place else self._facts

    def _known(self, path: Path, what: str) -> str | None:
        name = _name(path, what)
        kept = self._new.get(name) or self._facts.get(name)
        if kept is None or tuple(kept[:4]) != file_state(path):
            return None
        return str(kept[4])


def _name(path: Path, what: str) -> str:
    return f"{what} {os.path.abspath(path)}"  # noqa: PTH100 - ten times faster than Path.absolute


def _read(place: Path) -> dict[str, list[object]]:
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(content, dict) and content.get("version") == _VERSION
    return dict(content["facts"]) if known and isinstance(content.get("facts"), dict) else {}
