"""Which Python files are the user's own, and how they are imported: from their source as it is now.

Python's bytecode is believed as long as the source has the modification time and the size that it was compiled from.
An edit that keeps both (a restored cache, ``cp -p``, ``touch -d``) would run yesterday's code under today's key. So
while a recipe's code is imported no bytecode of the user's own files is read.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType

_LIBRARY = Path(contextlib.__file__).parent
_OWN = Path(__file__).parents[1]


def is_user_file(filename: str) -> bool:
    """Say whether a file is neither the standard library's, nor an installed package's, nor mmdeploy's."""
    path = Path(filename)
    return (
        path.suffix == ".py"
        and not filename.startswith("<")
        and "site-packages" not in path.parts
        and "dist-packages" not in path.parts
        and not path.is_relative_to(_LIBRARY)
        and not path.is_relative_to(_OWN)
    )


class SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles a module from its source, whatever bytecode lies beside it, and leaves none."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the source as it is now."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def load_file(name: str, path: Path) -> ModuleType:
    """Run a file as a module of a name, which is taken back where that fails."""
    spec = importlib.util.spec_from_file_location(name, path, loader=SourceLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


@contextlib.contextmanager
def imported_from_source() -> Iterator[None]:
    """Import the user's own modules from their sources while the context is open."""
    finder = _SourceFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)


class _SourceFinder:
    """Finds what the import system finds on ``sys.path``, and gives the user's own files another loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is not None and not any(is_user_file(str(Path(place) / "a.py")) for place in path):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return None
        if spec.origin is None or not is_user_file(spec.origin):
            return None
        spec.loader = SourceLoader(fullname, spec.origin)
        return spec
