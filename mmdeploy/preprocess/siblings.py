"""Modules beside a file of the recipe's own: imported from there, and nobody else's in the same process."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


class Siblings:
    """The modules that lie in a folder.

    A build may see several recipes in one process, and each may have a ``helpers.py``. In a server the folder is on the
    path for good: nothing is exchanged there.
    """

    def __init__(self, folder: Path) -> None:
        """Look at what the folder holds."""
        importlib.invalidate_caches()
        self._place = folder.resolve()
        packages = {path.parent.name for path in folder.glob("*/__init__.py")}
        self._names = ({path.stem for path in folder.glob("*.py")} | packages) - sys.stdlib_module_names
        self._kept: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def on_path(self) -> Iterator[None]:
        """Let the folder come first in imports while the context is open; leave ``sys.modules`` as it was found."""
        if str(self._place) in sys.path:
            yield
            return
        found = self._named()
        foreign = {name: module for name, module in found.items() if not self._is_here(module)}
        for name in foreign:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in self._kept.items() if name not in sys.modules})
        sys.path.insert(0, str(self._place))
        try:
            yield
        finally:
            sys.path.remove(str(self._place))
            for name in self._named().keys() - (found.keys() - foreign.keys()):
                self._kept[name] = sys.modules.pop(name)
            sys.modules.update(foreign)

    def _named(self) -> dict[str, ModuleType]:
        tops = tuple(f"{name}." for name in self._names if name in sys.modules)
        return {
            name: module for name, module in list(sys.modules.items()) if name in self._names or name.startswith(tops)
        }

    def _is_here(self, module: ModuleType) -> bool:
        file = getattr(module, "__file__", None)
        return isinstance(file, str) and Path(file).resolve().is_relative_to(self._place)
