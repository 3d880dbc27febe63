"""Opens of files in some folders, told by fanotify(7), with who opened: this process, or another one.

Any user may ask since Linux 5.13, about folders and files one by one. Files are told by the handle of their folder and
their name; opens of other processes as those of process 0, unless root asks. A file system without handles, a sandbox
or an older kernel does not have it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

_CLOEXEC, _NONBLOCK, _WITH_FILE, _WITH_FOLDER_AND_NAME = 0x1, 0x2, 0x200, 0xC00
_ADD, _HERE = 0x1, -100
_OPEN, _IN_FOLDER, _OVERFLOW = 0x20, 0x08000000, 0x4000
_FOLLOW, _FOR_TELLING = 0x400, 0x200
_FILE, _FOLDER_AND_NAME = 1, 2
_EVENT = struct.Struct("=IBBHQii")
_RECORD = struct.Struct("=BBH8s")
_HANDLE = struct.Struct("=Ii")
_MOST_OF_HANDLE = 128
_BUFFER = 2**16


class Fanotify:
    """Tells opens, and whether this process did.

    Attributes:
        problem: Why it does not see everything that it was asked to look at; empty while it does.
    """

    def __init__(self) -> None:
        """Start; where it is not to be had, nothing can be added."""
        self.problem = ""
        self._places: dict[bytes, str] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = _CLOEXEC | _NONBLOCK | _WITH_FILE | _WITH_FOLDER_AND_NAME
        try:
            self._mark = self._libc.fanotify_mark
            self._mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
            self._handle = self._libc.name_to_handle_at
            self._descriptor = self._libc.fanotify_init(flags, os.O_RDONLY)
        except AttributeError:  # a C library without it
            self._descriptor = -1

    def close(self) -> None:
        """Stop."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def add(self, path: str, *, folder: bool) -> bool:
        """Look at the files in a folder, or at a file; through links. False where it cannot.

        Args:
            path: The folder or the file.
            folder: Whether it is a folder.
        """
        if self._descriptor < 0 or (key := self._key(path)) is None:
            return False
        mask = _OPEN | _IN_FOLDER if folder else _OPEN
        if self._mark(self._descriptor, _ADD, mask, _HERE, os.fsencode(path)):
            return False
        self._places[key] = path
        return True

    def opened(self) -> Iterator[tuple[str, bool]]:
        """Give the files that were opened since it was asked last, and whether this process opened them."""
        own = os.getpid()
        while self._descriptor >= 0:
            try:
                events = os.read(self._descriptor, _BUFFER)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(events):
                length, _, _, start, mask, _, process = _EVENT.unpack_from(events, offset)
                if mask & _OVERFLOW:
                    self.problem = "more files were opened at once than the kernel keeps note of"
                else:
                    paths = list(self._paths(events[offset + start : offset + length]))
                    if not paths:
                        self.problem = "the kernel told of a file without a place that is known"
                    yield from ((path, process == own) for path in paths)
                offset += length

    def _paths(self, records: bytes) -> Iterator[str]:
        """Give the paths that the records of one event stand for: by its folder, and by a link to it."""
        offset = 0
        while offset < len(records):
            kind, _, length, system = _RECORD.unpack_from(records, offset)
            start = offset + _RECORD.size
            name = start + _HANDLE.size + _HANDLE.unpack_from(records, start)[0]
            place = self._places.get(system + records[start:name])
            if place is not None and kind == _FOLDER_AND_NAME:
                rest = os.fsdecode(records[name : offset + length].partition(b"\0")[0])
                yield os.path.join(place, rest)  # noqa: PTH118 - must not be seen
            elif place is not None and kind == _FILE:
                yield place
            offset += length

    def _key(self, path: str) -> bytes | None:
        """Return what events will name a folder or a file by: its file system, and its handle there."""
        handle = ctypes.create_string_buffer(_HANDLE.size + _MOST_OF_HANDLE)
        for flags in (_FOLLOW | _FOR_TELLING, _FOLLOW):  # the first since Linux 6.5, for more file systems
            _HANDLE.pack_into(handle, 0, _MOST_OF_HANDLE, 0)
            mount = ctypes.c_int()
            if not self._handle(_HERE, os.fsencode(path), handle, ctypes.byref(mount), flags):
                size, _ = _HANDLE.unpack_from(handle)
                try:
                    system = struct.pack("=Q", os.statvfs(path).f_fsid)
                except OSError:
                    return None
                return system + handle.raw[: _HANDLE.size + size]
        return None
