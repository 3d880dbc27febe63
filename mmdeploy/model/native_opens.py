"""Which files are opened in some folders, by whatever code: the kernel tells, by inotify(7).

Python's audit events show what Python opens. Native code (safetensors, mmap in C++, image and audio libraries) opens
without a word, so the kernel is asked about the folders in which the recipe's code has business. It does not say which
process opened a file: another one's opens are told, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

_IN_OPEN, _IN_ISDIR, _IN_OVERFLOW, _IN_EXCL_UNLINK = 0x20, 0x40000000, 0x4000, 0x04000000
_EVENT = struct.Struct("iIII")
_BUFFER = 2**16
#: Folders that are looked at below one folder; more than that is no folder of a recipe.
_MOST_FOLDERS = 4096


class NativeOpens:
    """Tells the files that were opened in the folders that it was asked to look at.

    Attributes:
        problem: Why it does not see everything; empty while it does.
    """

    def __init__(self, passed_over: Callable[[str], bool]) -> None:
        """Start; what cannot be watched is told by `problem` and raises nothing.

        Args:
            passed_over: Says of a folder that nothing in it counts.
        """
        self.problem = ""
        self._passed_over = passed_over
        self._places: dict[int, str] = {}
        self._asked: set[str] = set()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            self.problem = f"the kernel does not tell which files are opened: {os.strerror(ctypes.get_errno())}"

    def close(self) -> None:
        """Stop."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def look_below(self, folder: Path) -> None:
        """Look at a folder and all below it, through links."""
        waiting, seen = [str(folder)], set[str]()
        while waiting:
            place = waiting.pop()
            real = os.path.realpath(place)
            if real in seen or self._passed_over(place):
                continue
            if len(seen) == _MOST_FOLDERS:
                self.problem = f"there are more than {_MOST_FOLDERS} folders in {folder}"
                return
            seen.add(real)
            waiting.extend(self.look_at(place))

    def look_at(self, folder: str) -> list[str]:
        """Look at the files of one folder, and at what links in it lead to; return the folders in it."""
        if folder in self._asked or self._descriptor < 0 or self._passed_over(folder):
            return []
        self._asked.add(folder)
        below = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        below.append(entry.path)
                    elif entry.is_symlink():
                        self._add(entry.path)
        except OSError:
            return []
        self._add(folder)
        return below

    def opened(self) -> set[str]:
        """Return the files that were opened since it was asked last."""
        return set(self._opened())

    def _add(self, path: str) -> None:
        number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN | _IN_EXCL_UNLINK)
        if number >= 0:
            self._places[number] = path
        elif ctypes.get_errno() == errno.ENOSPC:
            self.problem = "the limit of fs.inotify.max_user_watches is reached"

    def _opened(self) -> Iterator[str]:
        while self._descriptor >= 0:
            try:
                events = os.read(self._descriptor, _BUFFER)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(events):
                number, mask, _, length = _EVENT.unpack_from(events, offset)
                name = events[offset + _EVENT.size : offset + _EVENT.size + length].rstrip(b"\0")
                offset += _EVENT.size + length
                if mask & _IN_OVERFLOW:
                    self.problem = "more files were opened at once than the kernel keeps note of"
                elif not mask & _IN_ISDIR and (place := self._places.get(number)):
                    yield os.path.join(place, os.fsdecode(name)) if name else place  # noqa: PTH118 - must not be seen
