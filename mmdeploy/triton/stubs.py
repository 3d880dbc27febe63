"""Watches the stub processes of a server: Triton reports a model as ready although its stub is dead.

With several instances the others go on to answer, so a probe misses a dead one, and a part of the requests fails.
"""

from __future__ import annotations

import re
from collections import Counter

import psutil

#: Name of a model, and numbers of the instance group and the instance, as Triton has them in a stub's arguments.
_INSTANCE = re.compile(r"(?P<model>.+)_\d+_\d+")


class Stubs:
    """The stubs below a process, as they were when they were last counted."""

    def __init__(self, pid: int) -> None:
        """Count the stubs below the process ``pid``."""
        self._pid = pid
        self._known: list[psutil.Process] = []
        self._expected: Counter[str] = Counter()
        self.count()

    def count(self) -> None:
        """Take the stubs that live now for those that should; of a model no more than there were before.

        The stubs of a model that was unloaded live on for a second, beside those of its successor.
        """
        self._known = [process for process in _below(self._pid) if _model(process) and _lives(process)]
        found = Counter(_model(process) for process in self._known)
        self._expected = Counter(
            {model: min(number, self._expected[model] or number) for model, number in found.items()}
        )

    def any_ended(self) -> bool:
        """Return whether a stub ended since they were counted: cheap, and true after a model was unloaded."""
        return not all(map(_lives, self._known))

    def short(self) -> tuple[str, ...]:
        """Return the models that have fewer stubs now than when they were counted, sorted."""
        found = Counter(_model(process) for process in _below(self._pid) if _lives(process))
        return tuple(sorted(model for model, number in self._expected.items() if found[model] < number))


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _model(process: psutil.Process) -> str:
    """Return the name of the model that a stub serves; an empty text for any other process."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    if not words or not words[0].endswith("triton_python_backend_stub"):
        return ""
    return next((match["model"] for word in words[2:] if (match := _INSTANCE.fullmatch(word)) and "/" not in word), "")
