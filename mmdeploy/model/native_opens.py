"""Which files this process opens in some folders, by whatever code: the kernel tells.

Python's audit events show what Python opens. Native code (safetensors, mmap in C++, image and audio libraries) opens
without a word, so the kernel is asked about the folders in which the recipe's code has business. Where it says who
opened (`mmdeploy.model.fanotify`), opens of other processes count only if one of them may work for this one; where it
does not (`mmdeploy.model.inotify`), every open counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mmdeploy.model.fanotify import Fanotify
from mmdeploy.model.inotify import Inotify
from mmdeploy.model.other_processes import may_read

#: Folders that are looked at below one folder; more than that is no folder of a recipe.
_MOST_FOLDERS = 4096


class NativeOpens:
    """Tells the files that were opened in the folders that it was asked to look at."""

    def __init__(self, passed_over: Callable[[str], bool]) -> None:
        """Start; what cannot be watched is told by `problem` and raises nothing.

        Args:
            passed_over: Says of a folder that nothing in it counts.
        """
        self._passed_over = passed_over
        self._asked: set[str] = set()
        self._closed = False
        self._too_many = ""
        self._by_whom = Fanotify()
        self._by_anyone: Inotify | None = None

    @property
    def problem(self) -> str:
        """Why it does not see everything; empty while it does."""
        return self._too_many or self._by_whom.problem or (self._by_anyone.problem if self._by_anyone else "")

    def close(self) -> None:
        """Stop."""
        self._closed = True
        self._by_whom.close()
        if self._by_anyone is not None:
            self._by_anyone.close()

    def look_below(self, folder: Path) -> None:
        """Look at a folder and all below it, through links."""
        waiting, seen = [str(folder)], set[str]()
        while waiting:
            place = waiting.pop()
            real = os.path.realpath(place)
            if real in seen or self._passed_over(place):
                continue
            if len(seen) == _MOST_FOLDERS:
                self._too_many = f"there are more than {_MOST_FOLDERS} folders in {folder}"
                return
            seen.add(real)
            waiting.extend(self.look_at(place))

    def look_at(self, folder: str) -> list[str]:
        """Look at the files of one folder, and at what links in it lead to; return the folders in it."""
        if self._closed or folder in self._asked or self._passed_over(folder):
            return []
        self._asked.add(folder)
        below = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        below.append(entry.path)
                    elif entry.is_symlink():
                        self._add(entry.path, folder=False)
        except OSError:
            return []
        self._add(folder, folder=True)
        return below

    def opened(self) -> set[str]:
        """Return the files that were opened since it was asked last, by this process or by one that may work for it."""
        told = list(self._by_whom.opened())
        anyone = may_read()  # after its opens were told: whoever opened has been there by now
        found = {path for path, own in told if own or anyone}
        return found if self._by_anyone is None else found | set(self._by_anyone.opened())

    def _add(self, path: str, *, folder: bool) -> None:
        if self._by_whom.add(path, folder=folder):
            return
        if self._by_anyone is None:
            self._by_anyone = Inotify()
        self._by_anyone.add(path)
