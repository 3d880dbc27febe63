"""Which installed packages are loaded meanwhile: what is new in ``sys.modules``, and what the user's code asks for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from mmdeploy.model.user_code import is_user_file

_OWN = f"{Path(__file__).parents[1]}/"


class NewPackages:
    """Tells the packages that were loaded since it was asked last."""

    def __init__(self) -> None:
        """Begin with what is loaded now."""
        self._known, self._count = set(sys.modules), len(sys.modules)
        self._asked: set[str] = set()

    def asked_for(self, name: str, frame: FrameType | None) -> None:
        """Note that a module is about to be imported, if the user's code is what runs: not ours that it was called by.

        Args:
            name: Dotted, in full.
            frame: The innermost one of those that run.
        """
        while frame is not None and not frame.f_code.co_filename.startswith(_OWN):
            if is_user_file(frame.f_code.co_filename):
                self._asked.add(name.partition(".")[0])
                return
            frame = frame.f_back

    def taken(self, *, by_user: bool = False) -> set[str]:
        """Return the top-level names of installed packages that are new, and begin anew.

        Args:
            by_user: Only those that `asked_for` was told of: others work here, too.
        """
        asked, self._asked = self._asked, set()
        if len(sys.modules) == self._count:
            return set()
        found = set(sys.modules)
        tops = {name.partition(".")[0] for name in found - self._known} - sys.stdlib_module_names
        self._known, self._count = found, len(found)
        return {top for top in (tops & asked if by_user else tops) if _is_installed(top)}


def _is_installed(top: str) -> bool:
    file = getattr(sys.modules.get(top), "__file__", None)
    return isinstance(file, str) and not is_user_file(file)
