"""Python code that a recipe names: find it, import it, follow its imports, and say where it went wrong.

A reference is ``model.py:build`` (a file relative to the recipe's folder, and a name in it) or
``package.module:callable``. Code is executed by `resolve_callable` only; `source_files` reads it with `ast`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mmdeploy.core.errors import StepError, did_you_mean

#: Modules that came from a recipe's folder, with the state of their file when they were loaded.
_loaded: dict[str, tuple[Path, int, int]] = {}
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
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise error(f"{place} has no {name!r}", hint=did_you_mean(name, defined))
    if not callable(found):
        raise error(f"{reference} is {_a(found)}, not a callable")
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
        except Exception as cause:
            absent = cause.name if isinstance(cause, ModuleNotFoundError) else None
            if absent and not place.endswith(".py") and (place + ".").startswith(f"{absent}."):
                raise error(f"{place}: there is no module {absent!r}") from cause
            raise error(f"importing {place} failed: {describe(cause, root)}") from cause


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


def is_user_file(filename: str) -> bool:
    """Say whether a file is neither the standard library's, nor an installed package's, nor mmdeploy's."""
    path = Path(filename)
    library = Path(contextlib.__file__).parent
    return (
        path.suffix == ".py"
        and not filename.startswith("<")
        and "site-packages" not in path.parts
        and "dist-packages" not in path.parts
        and not path.is_relative_to(library)
        and not path.is_relative_to(Path(__file__).parents[1])
    )


def _relative(filename: str, root: Path | None) -> str:
    path = Path(filename)
    inside = root is not None and path.is_relative_to(root.resolve())
    return str(path.relative_to(root.resolve()) if inside and root is not None else path)


def _a(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _import_module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _import_file(place: str, root: Path, error: type[StepError]) -> ModuleType:
    path = _existing_file(place, root, error)
    inside = path.is_relative_to(root.resolve())
    name = ".".join((path.relative_to(root.resolve()) if inside else Path(path.name)).with_suffix("").parts)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if known is not None:  # a library goes by this name already: leave it alone
        name = f"_recipe_{name.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _existing_file(place: str, root: Path, error: type[StepError]) -> Path:
    path = (root / place).resolve()
    if not path.is_file():
        beside = path.parent.glob("*.py") if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, (other.name for other in beside))
        raise error(f"there is no file {place} in {root}", hint=hint)
    return path


def _forget_stale(root: Path) -> None:
    def stale(name: str) -> bool:
        path, modified_ns, size = _loaded[name]
        if not path.is_relative_to(root):
            return (root / name.split(".")[0]).exists() or (root / f"{name.split('.')[0]}.py").exists()
        try:
            now = path.stat()
        except OSError:
            return True
        return (now.st_mtime_ns, now.st_size) != (modified_ns, size)

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
                state = Path(file).stat()
                _loaded[name] = (Path(file), state.st_mtime_ns, state.st_size)


def source_files(reference: str, root: Path) -> tuple[Path, ...]:
    """Return the Python files behind a reference, sorted: its own and what they import, without running any.

    For ``path.py:callable`` imports are followed within ``root`` and the file's own folder; for
    ``package.module:callable`` within the top-level package, whose ``__init__`` files on the way are listed
    but not followed. Blocks under ``if TYPE_CHECKING`` are passed over; modules imported by a computed name
    are not seen.

    Raises:
        StepError: When the file or the package is missing.
    """
    place, _ = split_reference(reference, StepError)
    if place.endswith(".py"):
        start = _existing_file(place, root, StepError)
        return _closure([start], [root.resolve(), start.parent], within=None)
    top = place.split(".")[0]
    spec = importlib.machinery.PathFinder.find_spec(top, [str(root.resolve()), *sys.path])
    spec = spec or importlib.util.find_spec(top)  # installed in place by a finder of its own
    if spec is None:
        raise StepError(f"{reference}: there is no package {top!r}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ()  # built in, or compiled: its version is all there is
    origin = Path(spec.origin).resolve()
    folder = origin.parent.parent if spec.submodule_search_locations else origin.parent
    start_files = _module_files(place, folder)
    if not start_files:
        raise StepError(f"{reference}: there is no module {place!r} in {origin.parent}")
    return _closure(start_files, [folder], within=top)


def _closure(start: list[Path], folders: list[Path], *, within: str | None) -> tuple[Path, ...]:
    seen: set[Path] = set(start)
    waiting = [start[-1]] if within else list(start)
    while waiting:
        path = waiting.pop()
        for name in _imported_names(path, folders):
            if within is not None and name.split(".")[0] != within:
                continue
            for folder in folders:
                found = _module_files(name, folder)
                fresh = [file for file in found if file not in seen]
                seen.update(found)
                waiting.extend(file for file in fresh if within is None or file == found[-1])
                if found:
                    break
    return tuple(sorted(seen))


def _module_files(name: str, folder: Path) -> list[Path]:
    """Return the files that importing a dotted name runs: ``__init__`` of each package, then the module."""
    files: list[Path] = []
    for part in name.split("."):
        package, module = folder / part / "__init__.py", folder / f"{part}.py"
        if package.is_file():
            files.append(package)
        elif module.is_file():
            return [*files, module]
        elif not (folder / part).is_dir():
            return []
        folder = folder / part
    return files


def _imported_names(path: Path, folders: Iterable[Path]) -> set[str]:
    """Return the dotted names that a file imports; ``from a import b`` gives ``a.b`` where that is a file."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in _running_nodes(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, path, folders)
            for alias in node.names:
                deeper = f"{module}.{alias.name}" if module else alias.name
                is_module = alias.name != "*" and any(_module_files(deeper, folder) for folder in folders)
                names.add(deeper if is_module else module)
    return names - {""}


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _running_nodes(child)


def _absolute(node: ast.ImportFrom, path: Path, folders: Iterable[Path]) -> str:
    if not node.level:
        return node.module or ""
    package = path.parent
    for _ in range(node.level - 1):
        package = package.parent
    for folder in folders:
        if package.is_relative_to(folder):
            return ".".join([*package.relative_to(folder).parts, *([node.module] if node.module else [])])
    return ""
