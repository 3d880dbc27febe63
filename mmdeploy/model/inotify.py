"""Opens of files in some folders, told by inotify(7): that a file was opened, and not by whom."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

_IN_OPEN, _IN_ISDIR, _IN_OVERFLOW, _IN_EXCL_UNLINK = 0x20, 0x40000000, 0x4000, 0x04000000
_EVENT = struct.Struct("iIII")
_BUFFER = 2**16


class Inotify:
    """Tells opens, by any process.

    Attributes:
        problem: Why it does not see everything; empty while it does.
    """

    def __init__(self) -> None:
        """Start; what cannot be watched is told by `problem` and raises nothing."""
        self.problem = ""
        self._places: dict[int, str] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            self.problem = f"the kernel does not tell which files are opened: {os.strerror(ctypes.get_errno())}"

    def close(self) -> None:
        """Stop."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def add(self, path: str) -> None:
        """Look at the files in a folder, or at a file; through links."""
        if self._descriptor < 0:
            return
        number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN | _IN_EXCL_UNLINK)
        if number >= 0:
            self._places[number] = path
        elif ctypes.get_errno() == errno.ENOSPC:
            self.problem = "the limit of fs.inotify.max_user_watches is reached"

    def opened(self) -> Iterator[str]:
        """Give the files that were opened since it was asked last."""
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
