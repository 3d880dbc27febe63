"""Python code that a recipe names: find it, import it, and say where it went wrong.

A reference is ``model.py:build`` (a file relative to the recipe's folder, and a name in it) or
``package.module:callable``.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mmdeploy.core.errors import StepError, did_you_mean, kind_of
from mmdeploy.core.file_state import State, file_state
from mmdeploy.model.mistakes import is_of_user, remedy
from mmdeploy.model.user_code import imported_from_source, is_user_file, load_file

#: What a reference looks like.
REFERENCE_PATTERN = r"^([^:]+\.py|[A-Za-z_][A-Za-z0-9_.]*):[A-Za-z_][A-Za-z0-9_.]*$"
#: Modules that came from a recipe's folder, with the state of their file when they were loaded.
_loaded: dict[str, tuple[Path, State]] = {}
_import_lock = threading.RLock()


def split_reference(reference: str, error: type[StepError]) -> tuple[str, str]:
    """Split ``model.py:build`` or ``package.module:build`` into place and name.

    Raises:
        StepError: Of the class ``error``, when the reference is not of that form.
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise error(
            f"{reference!r} is not a reference to a callable",
            hint="write path:callable, such as model.py:build, or package.module:callable",
        )
    return place, name


def resolve_callable(reference: str, root: Path, *, error: type[StepError]) -> Callable[..., Any]:
    """Import the callable that a reference names.

    Args:
        reference: ``path.py:callable``, the path relative to ``root``, or ``package.module:callable``.
        root: Folder of the recipe.
        error: Class of the exceptions raised.

    Raises:
        StepError: Of the class ``error``: the file, the module or the name is missing, or importing it fails.
    """
    place, name = split_reference(reference, error)
    module = import_place(place, root, error=error)
    found = getattr(module, name, None)
    if found is None:
        public = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
        own = [key for key, value in public.items() if getattr(value, "__module__", None) == module.__name__]
        raise error(f"{place} has no {name!r}", hint=did_you_mean(name, own or public))
    if not callable(found):
        raise error(f"{reference} is {kind_of(found)}, not a callable")
    return found  # type: ignore[no-any-return]


def import_place(place: str, root: Path, *, error: type[StepError]) -> ModuleType:
    """Import the module that a reference names before its colon: a file relative to ``root``, or a dotted name.

    Raises:
        StepError: Of the class ``error``: there is no such file or module, or importing it fails.
    """
    with importing_from(root):
        try:
            return _import_file(place, root, error) if place.endswith(".py") else _import_module(place)
        except StepError:
            raise
        except (Exception, SystemExit) as cause:
            if not is_of_user(cause):
                raise
            absent = cause.name if isinstance(cause, ModuleNotFoundError) else None
            if absent and not place.endswith(".py") and (place + ".").startswith(f"{absent}."):
                raise error(f"{place}: there is no module {absent!r}") from cause
            raise error(f"importing {place} failed: {describe(cause, root)}", hint=remedy(cause, root)) from cause


@contextlib.contextmanager
def importing_from(root: Path) -> Iterator[None]:
    """Let the code of a recipe import its siblings while the context is open.

    Modules of another recipe's folder, or whose file has changed, are forgotten first.
    """
    root = root.resolve()
    with _import_lock:
        _forget_stale(root)
        importlib.invalidate_caches()
    with on_path(root):
        yield


@contextlib.contextmanager
def on_path(root: Path) -> Iterator[None]:
    """Put a recipe's folder, resolved, first on ``sys.path`` while the context is open; cheap.

    Siblings that are imported meanwhile, such as inside a generator of samples, are noted like those at the top.
    """
    place, known = str(root), len(sys.modules)
    sys.path.insert(0, place)
    try:
        with imported_from_source():
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)
        if len(sys.modules) != known:
            with _import_lock:
                _note_loaded(root, list(sys.modules))


def describe(error: BaseException, root: Path | None = None) -> str:
    """Return ``ValueError at model.py:12 (build): message`` for an exception of the user's code."""
    text = " ".join(str(error).split())
    where = user_location(error, root)
    return f"{type(error).__name__}{f' at {where}' if where else ''}{f': {text}' if text else ''}"


def user_location(error: BaseException, root: Path | None = None) -> str | None:
    """Return ``file:line (function)`` of the innermost frame of the user's own code, or None.

    Frames under ``root`` win; without any, the innermost frame outside installed libraries is taken.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_relative(error.filename, root)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_user_file(frame.filename)]
    if root is not None:
        own = [frame for frame in own if Path(frame.filename).is_relative_to(root.resolve())] or own
    return f"{_relative(own[-1].filename, root)}:{own[-1].lineno} ({own[-1].name})" if own else None


def _relative(filename: str, root: Path | None) -> str:
    path = Path(filename)
    inside = root is not None and path.is_relative_to(root.resolve())
    return str(path.relative_to(root.resolve()) if inside and root is not None else path)


def _import_module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _import_file(place: str, root: Path, error: type[StepError]) -> ModuleType:
    path = existing_file(place, root, error)
    inside = path.is_relative_to(root.resolve())
    name = ".".join((path.relative_to(root.resolve()) if inside else Path(path.name)).with_suffix("").parts)
    own = f"_recipe_{name.replace('.', '_')}"  # where a library goes by the name already, which is left alone
    for free in (name, own):
        known = sys.modules.get(free)
        if known is not None and getattr(known, "__file__", None) == str(path):
            return known
        if known is None:
            break
    module = load_file(free, path)
    _note_loaded(path.parent, [free])  # in the place of another recipe's, perhaps
    return module


def existing_file(place: str, root: Path, error: type[StepError]) -> Path:
    """Return the file that a reference names, resolved.

    Raises:
        StepError: Of the class ``error``, when there is none.
    """
    path = (root / place).resolve()
    if not path.is_file():
        beside = path.parent.glob("*.py") if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, (other.name for other in beside))
        raise error(f"there is no file {place} in {root}", hint=hint)
    return path


def _forget_stale(root: Path) -> None:
    def stale(name: str) -> bool:
        path, loaded = _loaded[name]
        if not path.is_relative_to(root):
            return (root / name.split(".")[0]).exists() or (root / f"{name.split('.')[0]}.py").exists()
        try:
            return file_state(path) != loaded
        except OSError:
            return True

    gone = [name for name in _loaded if stale(name)]
    if any(_loaded[name][0].is_relative_to(root) for name in gone):  # what imports a changed module is stale
        gone = [name for name in _loaded if name in gone or _loaded[name][0].is_relative_to(root)]
    for name in gone:
        sys.modules.pop(name, None)
        del _loaded[name]


def _note_loaded(root: Path, names: Iterable[str]) -> None:
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str) and is_user_file(file) and Path(file).is_relative_to(root):
            with contextlib.suppress(OSError):
                _loaded[name] = (Path(file), file_state(file))
