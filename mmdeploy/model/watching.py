"""What the recipe's code reads, seen while it runs: as build tools find dependencies, without being told.

Inside a step's process each of the recipe's callables runs in a `reading` window. What is opened, listed, looked for
and imported meanwhile is written to a log, under the name of the callable:

- Python's opens and listings by an audit hook; tests for existence by standing in front of ``os.stat``;
- opens by native code, and by processes that may work for this one, by asking the kernel about the recipe's folder and
  about every folder that a path of the recipe's code leads to (`mmdeploy.model.native_opens`): `pathlib` and
  ``os.path.join`` tell those before they are used;
- imports by what is new in ``sys.modules`` at the end of a window; between windows, when mmdeploy imports what it needs
  itself, by Python's announcement of an import that the user's code asks for.

A file that was only tested for existence counts as read: what tests for a file hands it to a reader. What a module
reads while it is imported belongs to the module, since it is imported once, whoever asks for it. Not seen are other
machines, other programs' files outside of those folders, clocks and random numbers: the first two are noted.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import multiprocessing
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmdeploy.core.file_state import State
from mmdeploy.model import fronts, other_processes
from mmdeploy.model.fronts import standing_in_front
from mmdeploy.model.native_opens import NativeOpens
from mmdeploy.model.new_packages import NewPackages
from mmdeploy.model.passing_over import is_passed_over, ourselves
from mmdeploy.model.places import counts, is_installed, within
from mmdeploy.model.user_code import is_user_file

#: How the note begins that opens by native code could not be seen.
BLIND = "what native code reads"
#: Our own files that call the recipe's code: what called those is no business of it.
_CALLING = tuple(
    str(Path(__file__).parents[1] / file)
    for file in ("model/torch_model.py", "model/sources.py", "data/samples.py", "scoring/task_metric.py")
)
_LIBRARY = str(Path(contextlib.__file__).parent)
#: Files that nobody but Python opens: an open that only the kernel tells of is another process's, which imports them.
_PYTHON = (".py", ".pyc")
_WRITING = os.O_WRONLY | os.O_RDWR
_stat = os.stat
_watch: Watch | None = None
_hooked = False


@contextlib.contextmanager
def watched(root: Path, log: Path, *, ignored: tuple[Path, ...] = (), hints: tuple[str, ...] = ()) -> Iterator[None]:
    """Watch what the `reading` windows of this process, and of those forked from it, read; one line each in a log.

    Args:
        root: Folder of the recipe, resolved.
        log: File to append to.
        ignored: Folders and files that do not count: the store, and what is known by other means.
        hints: Paths, relative to ``root`` or absolute, whose folders native code may read in; what is none is no harm.
    """
    global _watch
    watch = Watch(root, log, ignored, hints)
    before, _watch = _watch, watch
    _install_hook()
    try:
        with standing_in_front(lambda: _watch if _watch is not None and _watch.reader is not None else None):
            yield
    finally:
        _watch = before
        watch.close()


@contextlib.contextmanager
def reading(reader: str, *, lasts: bool = False) -> Iterator[None]:
    """Note what is read while the context is open as read by ``reader``, such as ``data.py:calibration``; cheap.

    Args:
        reader: Reference of the callable.
        lasts: Whether it is also the one who reads in the recipe's folder between windows: what a factory made may
            read when it is called.
    """
    watch = _watch
    if watch is None or watch.reader is not None:
        yield
        return
    watch.open_window(reader, lasts=lasts)
    try:
        yield
    finally:
        watch.close_window()


def note(how: str, what: object) -> None:
    """Note a fact of another kind about the callable that runs."""
    if _watch is not None and _watch.reader is not None:
        _watch.write(_watch.reader, how, json.dumps(what), None)


def is_watching() -> bool:
    """Say whether what is noted goes anywhere."""
    return _watch is not None


class Watch:
    """Watches one process.

    Attributes:
        reader: The callable that runs; None between windows.
    """

    def __init__(self, root: Path, log: Path, ignored: tuple[Path, ...], hints: tuple[str, ...]) -> None:
        self.reader: str | None = None
        self._root, self._hints = str(root), hints
        self._ignored = tuple(str(path) for path in ignored)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._written: set[tuple[str, str, str]] = set()
        self._touched: set[str] = set()
        self._native: NativeOpens | None = None
        self._process = os.getpid()
        self._packages = NewPackages()
        self._helpers = 0
        self._lingering: str | None = None
        self._last: str | None = None

    def open_window(self, reader: str, *, lasts: bool) -> None:
        """Begin to note for a callable."""
        if self._native is None:
            with ourselves():
                self._begin()
        self._drain(self._lingering)
        self._note_packages(self._lingering or self._last, by_user=True)
        self._helpers = _helpers()
        self.reader = reader
        self._last = reader if lasts else self._last
        self.write(reader, "ran", "", None)

    def _begin(self) -> None:
        self._native = NativeOpens(lambda folder: not counts(f"{folder}/x", self._ignored))
        self._native.look_below(Path(self._root))
        for hint in self._hints:
            self.touch(os.path.normpath(hint if hint.startswith("/") else f"{self._root}/{hint}"))

    def close_window(self) -> None:
        """End the callable's window; threads and processes that it leaves go on being noted for it."""
        reader, self.reader = self.reader, None
        if os.getpid() != self._process:
            return
        self._drain(reader)
        self._lingering = reader if _helpers() > self._helpers else None
        self._note_packages(reader)

    def close(self) -> None:
        """Write what is left, and stop."""
        self._drain(self._lingering)
        self._note_packages(self._lingering or self._last, by_user=True)
        if self._native is not None:
            self._native.close()
        os.close(self._log)

    def opened(self, path: Any, mode: Any, flags: Any) -> None:
        """Note that Python opens a file."""
        writes = isinstance(flags, int) and bool(flags & _WRITING)
        keeps = isinstance(flags, int) and not flags & os.O_TRUNC
        if (name := self._absolute(path)) is None:
            return
        state = _state(name)
        appends = isinstance(mode, str) and "a" in mode
        if writes and (not keeps or appends or state is None):
            self.write(self._attributed(name), "wrote", name, None)
        else:
            self._note_file(name, state)

    def listed(self, path: Any) -> None:
        """Note that Python lists a folder."""
        caller = sys._getframe(3).f_code.co_filename
        if caller.startswith("<frozen importlib") or "/importlib/" in caller:
            return  # looking for a module, it lists every folder on the path
        if (name := self._absolute("." if path is None else path)) is not None:
            self.touch(name)
            if is_installed(name):
                return
            self.write(self._attributed(name), "listed" if _is_folder(name) else "absent", name, None)

    def probed(self, path: Any) -> None:
        """Note that Python looks whether a file is there."""
        if (name := self._absolute(path)) is not None:
            if _is_folder(name):
                self.touch(name)
            elif not name.endswith(_PYTHON) or _state(name) is None:
                self._note_file(name, _state(name))  # libraries look for the source of every module that is loaded

    def imports(self, name: Any) -> None:
        """Note that something is about to be imported between windows."""
        if self.reader is None and isinstance(name, str):
            self._packages.asked_for(name, sys._getframe(3))

    def touch(self, path: str) -> None:
        """Look at the folder of a path, or at the folder that it is, before native code reads there."""
        if path in self._touched or self._native is None or os.getpid() != self._process:
            return
        self._touched.add(path)
        folder = path if _is_folder(path) else os.path.dirname(path)  # noqa: PTH120
        if not within(self._root, folder.rstrip("/")) or folder == self._root:
            self._native.look_at(folder)

    def unseen(self, what: str) -> None:
        """Note that something is read that cannot be followed; what libraries do while they are imported is no news."""
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_name == "<module>" and not is_user_file(frame.f_code.co_filename):
                return
            if is_user_file(frame.f_code.co_filename):
                break
            frame = frame.f_back  # type: ignore[assignment]
        if self.reader is not None:
            self.write(self.reader, "unseen", what, None)

    def write(self, reader: str | None, how: str, what: str, state: State | None) -> None:
        """Write one line, once."""
        if reader is None or (reader, how, what) in self._written:
            return
        self._written.add((reader, how, what))
        os.write(self._log, f"{json.dumps([reader, how, what, state])}\n".encode())

    def _note_file(self, name: str, state: State | None) -> None:
        self.touch(name)
        self.write(self._attributed(name), "read" if state else "absent", name, state)

    def _absolute(self, path: Any) -> str | None:
        """Return a path in full if it counts."""
        if isinstance(path, int) or not (self.reader or self._last or self._lingering):
            return None
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return name if counts(name, self._ignored) and "\0" not in name else None

    def _attributed(self, name: str) -> str | None:
        """Return whose a read is: the user's module that is being imported, or else the callable's; None if our own.

        Between windows: what a callable left running, or a module of the model that reads when it is called.
        """
        frame, called = sys._getframe(2), False
        while frame is not None:
            file = frame.f_code.co_filename
            if frame.f_code.co_name == "<module>" and is_user_file(file):
                return f"module {file}"
            if file == linecache.__file__ and name.endswith(_PYTHON):
                return None  # lines for a traceback, or for `inspect`
            if file in _CALLING:
                if not called and self.reader is not None:
                    return None
                break
            called = called or not _of_python(file)
            frame = frame.f_back  # type: ignore[assignment]
        if self.reader is not None:
            return self.reader
        if self._lingering is not None and threading.current_thread() is not threading.main_thread():
            return self._lingering
        return self._last if name.startswith(f"{self._root}/") else None

    def _drain(self, reader: str | None) -> None:
        if self._native is None or os.getpid() != self._process:
            return
        for path in self._native.opened():
            if reader is not None and counts(path, self._ignored) and not path.endswith(_PYTHON):
                self.write(reader, "native", path, _state(path))
        if self._native.problem and reader is not None:
            self.write(reader, "unseen", f"{BLIND}, since {self._native.problem}", None)

    def _note_packages(self, reader: str | None, *, by_user: bool = False) -> None:
        for top in self._packages.taken(by_user=by_user):
            self.write(reader, "library", top, None)


def _state(name: str) -> State | None:
    """Return a file's state as `mmdeploy.core.digests.file_state` does, past what stands in front of ``os.stat``."""
    try:
        status = _stat(name)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _of_python(file: str) -> bool:
    """Say whether code is the standard library's, or stands between it and the recipe's."""
    return file in (__file__, fronts.__file__) or (file.startswith(("<frozen", _LIBRARY)) and "-packages/" not in file)


def _helpers() -> int:
    """Return the number of threads and processes that work for this one."""
    return threading.active_count() + len(multiprocessing.active_children())


def _is_folder(name: str) -> bool:
    try:
        return stat.S_ISDIR(_stat(name).st_mode)
    except (OSError, ValueError):
        return False


_Seen = Callable[[Watch, tuple[Any, ...]], None]
#: Audit events (PEP 578) that tell of reading; every other one passes at the cost of a look into this.
_EVENTS: dict[str, _Seen] = {
    "open": lambda watch, args: watch.opened(*args[:3]),
    "import": lambda watch, args: watch.imports(args[0]),
    "os.listdir": lambda watch, args: watch.listed(args[0]),
    "os.scandir": lambda watch, args: watch.listed(args[0]),
    "sqlite3.connect": lambda watch, args: watch.probed(args[0]),
    "ctypes.dlopen": lambda watch, args: watch.probed(args[0]) if "/" in str(args[0]) else None,
    "subprocess.Popen": lambda watch, args: watch.unseen(f"what the program {os.fsdecode(args[0])} reads"),
    "os.system": lambda watch, args: watch.unseen("what a shell command reads"),
    "socket.getaddrinfo": lambda watch, args: watch.unseen(f"what the host {args[0]} sends"),
    "urllib.Request": lambda watch, args: watch.unseen(f"what {args[0]} sends"),
    **dict.fromkeys(other_processes.EVENTS, lambda *_: other_processes.note_one()),
}


def _hook(event: str, args: tuple[Any, ...]) -> None:
    seen = _EVENTS.get(event)
    if seen is None or _watch is None or is_passed_over():
        return
    with ourselves():
        seen(_watch, args)


def _install_hook() -> None:
    """Add the audit hook, which stays as long as the process."""
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_hook)
