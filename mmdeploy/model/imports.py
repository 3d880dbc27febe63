"""The code behind a reference: Python files that would run, installed packages, environment variables. Nothing is run.

Imports are followed with `ast` through everything that is edited in place: files beside the recipe, folders on
``PYTHONPATH``, packages that are installed as editable. What lies in ``site-packages`` is changed by installing, so its
name is enough (`mmdeploy.model.distributions` tells its version). Blocks under ``if TYPE_CHECKING`` are passed over;
modules imported by a computed name are not seen here, but when they run (`mmdeploy.model.watching`).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.machinery
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import StepError
from mmdeploy.model.sources import existing_file, split_reference
from mmdeploy.model.user_code import is_user_file

_OWN_PACKAGE = __name__.partition(".")[0]
_LONGEST_PATH = 300
_ENVIRONMENT = {"environ.get", "getenv", "environ.setdefault", "environ.pop"}
_FETCHING = {
    "urlopen", "urlretrieve", "hf_hub_download", "snapshot_download", "load_state_dict_from_url",
    "download_url_to_file", "Popen", "check_output",
}  # fmt: skip
_REMOTE = {"requests", "httpx", "boto3", "subprocess", "socket"}
_IMPORTING = {"import_module", "__import__"}
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
_BUILT_IN_FINDERS = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter)


@dataclass(frozen=True)
class Code:
    """What runs when a reference is called.

    Attributes:
        files: Name of each file, by its path: relative to the folder that it is imported from, so that it is the same
            wherever that folder lies.
        libraries: Installed packages that are imported, by the name they are imported under.
        variables: Environment variables that are asked for by name.
        paths: Texts that may be paths.
        elsewhere: Calls of what fetches from elsewhere, or starts another program, as ``model.py:12 urlopen``.
    """

    files: dict[Path, str]
    libraries: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mentions:
    """What one file mentions.

    Attributes:
        modules: Level (dots), module and name of each import; the name is empty for ``import a.b``.
        variables: Environment variables.
        paths: Texts that may be paths.
        elsewhere: Line and name of each call of what fetches from elsewhere, or starts another program.
    """

    modules: tuple[tuple[int, str, str], ...] = ()
    variables: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    elsewhere: tuple[tuple[int, str], ...] = ()


def code_behind(reference: str, root: Path, facts: FileFacts | None = None) -> Code:
    """Return the code behind a reference.

    Args:
        reference: ``path.py:callable``, relative to ``root``, or ``package.module:callable``.
        root: Folder of the recipe.
        facts: Keeps what was read of files that did not change.

    Raises:
        StepError: When the file or the package is missing.
    """
    place, _ = split_reference(reference, StepError)
    root, facts = root.resolve(), facts or FileFacts()
    if place.endswith(".py"):
        start = existing_file(place, root, StepError)
        following = _Following([root, start.parent], facts)
        following.add(start, root if start.is_relative_to(root) else start.parent)
    else:
        following = _Following([root], facts)
        following.follow_module(place, reference)
    following.finish()
    parts = (following.libraries, following.variables, following.paths, following.elsewhere)
    return Code(dict(sorted(following.names.items())), *(tuple(sorted(part)) for part in parts))


def code_digest(path: Path, facts: FileFacts) -> str:
    """Return the digest of a file of code: of what it says, not of its comments and its layout.

    Raises:
        OSError: If it cannot be read.
    """
    return facts.of(path, "code", _meaning) if path.suffix == ".py" else facts.sha256(path)


def mentions(path: Path, facts: FileFacts) -> Mentions:
    """Return the imports and environment variables that a file mentions; none of a file that is not Python."""
    try:
        content = json.loads(facts.of(path, "mentions", _mentioned))
    except OSError:
        return Mentions()
    modules, variables, paths, elsewhere = content
    return Mentions(
        tuple((level, module, name) for level, module, name in modules),
        tuple(variables),
        tuple(paths),
        tuple((line, name) for line, name in elsewhere),
    )


def module_files(name: str, folder: Path) -> list[Path]:
    """Return the files that importing a dotted name runs: ``__init__`` of each package, then the module."""
    files: list[Path] = []
    parts = name.split(".")
    for number, part in enumerate(parts, 1):
        package = folder / part / "__init__.py"
        if package.is_file():
            files.append(package)
        elif module := _module(folder, part):
            return [*files, module] if number == len(parts) else []
        elif not (folder / part).is_dir():
            return []
        folder = folder / part
    return files


def imported_names(path: Path, folder: Path, found: Mentions, is_module: Iterable[Path]) -> Iterator[str]:
    """Give the dotted names that a file imports; ``from a import b`` gives ``a.b`` where that is a module.

    Args:
        path: The file.
        folder: The folder that it is imported from: what relative imports start at.
        found: What it mentions.
        is_module: Folders in which ``a.b`` may be a module.
    """
    folders = list(is_module)
    for level, module, name in found.modules:
        absolute = _absolute(level, module, path, folder)
        deeper = f"{absolute}.{name}" if absolute else name
        yield deeper if name and any(module_files(deeper, place) for place in folders) else absolute


@dataclass
class _Following:
    """Files that were found and those that are still to be read."""

    folders: Sequence[Path]
    facts: FileFacts
    names: dict[Path, str] = field(default_factory=dict)
    libraries: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    _waiting: list[tuple[Path, Path]] = field(default_factory=list)
    _places: dict[str, Path | None] = field(default_factory=dict)
    _folders: dict[str, Path | None] = field(default_factory=dict)

    def add(self, path: Path, folder: Path) -> None:
        if path not in self.names:
            self.names[path] = str(path.relative_to(folder))
            self._waiting.append((path, folder))

    def follow_module(self, name: str, reference: str) -> None:
        """Start at a module instead of a file."""
        top = name.partition(".")[0]
        folder = self._folder_of(name)
        if folder is None and top not in self.libraries:
            raise StepError(f"{reference}: there is no package {top!r}")
        files = module_files(name, folder) if folder is not None else [Path()]
        if not files:
            raise StepError(f"{reference}: there is no module {name!r} in {folder}")
        for path in files if folder is not None else ():
            assert folder is not None
            self.add(path, folder)

    def finish(self) -> None:
        while self._waiting:
            path, folder = self._waiting.pop()
            found = mentions(path, self.facts)
            self.variables.update(found.variables)
            self.paths.update(found.paths)
            self.elsewhere.update(f"{self.names[path]}:{line} {name}" for line, name in found.elsewhere)
            for level, module, name in found.modules:
                self._follow(Mentions(((level, module, name),)), path, folder)

    def _follow(self, one: Mentions, path: Path, folder: Path) -> None:
        level, module, name = one.modules[0]
        here = folder if level else self._folder_of(module or name)
        if here is None:
            return
        for dotted in imported_names(path, folder, one, [here]):
            for file in module_files(dotted, here) if dotted else ():
                self.add(file, here)

    def _folder_of(self, name: str) -> Path | None:
        """Return the folder that a module's top package lies in if it is edited in place; note it if installed."""
        if name not in self._folders:
            self._folders[name] = self._looked_for(name)
        return self._folders[name]

    def _looked_for(self, name: str) -> Path | None:
        top = name.partition(".")[0]
        for folder in self.folders:
            if module_files(name, folder) or _module_or_package(top, folder):
                return folder
        if top not in self._places:
            self._places[top] = _in_place(top)
            if self._places[top] is None and _installed(top):
                self.libraries.add(top)
        return self._places[top]


def _module_or_package(top: str, folder: Path) -> bool:
    return bool(module_files(top, folder)) or (folder / top / "__init__.py").is_file()


def _in_place(top: str) -> Path | None:
    """Return the folder that a top-level module is imported from if it is edited there; mmdeploy's own is."""
    spec = _spec(top)
    if spec is None:
        return None
    origins = [spec.origin] if spec.origin else [*(spec.submodule_search_locations or ())]
    if not origins or (top != _OWN_PACKAGE and not all(_edited(origin) for origin in origins)):
        return None
    first = Path(origins[0])
    return first.parents[1] if spec.submodule_search_locations is not None and spec.origin else first.parent


def _edited(origin: str) -> bool:
    path = Path(origin)
    return is_user_file(str(path.with_name("a.py")) if path.suffix != ".py" else origin)


def _installed(top: str) -> bool:
    return top not in sys.stdlib_module_names and _spec(top) is not None


def _spec(top: str) -> importlib.machinery.ModuleSpec | None:
    """Find a top-level module without importing it; editable installs have finders of their own."""
    if top in sys.stdlib_module_names or not top.isidentifier():
        return None
    spec = importlib.machinery.PathFinder.find_spec(top)
    for finder in sys.meta_path if spec is None else ():
        if finder in _BUILT_IN_FINDERS or not hasattr(finder, "find_spec"):
            continue
        try:
            spec = finder.find_spec(top, None)
        except Exception:  # noqa: BLE001 - another package's finder
            continue
        if spec is not None:
            break
    return spec


def _module(folder: Path, name: str) -> Path | None:
    suffixes = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
    names = (f"{name}{suffix}" for suffix in suffixes)
    return next((folder / one for one in names if os.path.isfile(f"{folder}/{one}")), None)  # noqa: PTH113 - asked often


def _absolute(level: int, module: str, path: Path, folder: Path) -> str:
    if not level:
        return module
    package = path.parent
    for _ in range(level - 1):
        package = package.parent
    if not package.is_relative_to(folder):
        return ""
    return ".".join([*package.relative_to(folder).parts, *([module] if module else [])])


def _meaning(path: Path) -> str:
    content = path.read_bytes()
    with contextlib.suppress(*_NOT_PYTHON):  # it does not run either, and each byte counts
        content = ast.dump(_parsed(content)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()


@functools.lru_cache(maxsize=1)
def _parsed(content: bytes) -> ast.Module:
    """Parse a file: its digest and what it mentions are asked for one after the other."""
    return ast.parse(content)


def _mentioned(path: Path) -> str:
    try:
        tree = _parsed(path.read_bytes()) if path.suffix == ".py" else ast.Module([], [])
    except _NOT_PYTHON:
        tree = ast.Module([], [])
    modules: list[tuple[int, str, str]] = []
    variables: set[str] = set()
    paths: set[str] = set()
    elsewhere: list[tuple[int, str]] = []
    for node in _running_nodes(tree):
        if isinstance(node, ast.Call) and (called := _dotted(node.func)) and _fetches(called):
            elsewhere.append((node.lineno, called))
        if isinstance(node, ast.Import):
            modules.extend((0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.extend((node.level, node.module or "", "" if a.name == "*" else a.name) for a in node.names)
        elif isinstance(node, ast.Call | ast.Subscript):
            name, constant = _constant_use(node)
            if name in _IMPORTING and constant.replace(".", "").isidentifier():
                modules.append((0, constant, ""))
            elif name in _ENVIRONMENT or name == "environ":
                variables.add(constant)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _may_be_path(node.value):
            paths.add(node.value)
    return json.dumps([list(dict.fromkeys(modules)), sorted(variables), sorted(paths), elsewhere])


def _fetches(called: str) -> bool:
    parts = called.split(".")
    return parts[-1] in _FETCHING or parts[0] in _REMOTE or parts[:2] == ["torch", "hub"]


def _dotted(node: ast.expr) -> str:
    """Return ``os.environ.get`` for what is written so; empty for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *parts]) if isinstance(node, ast.Name) else ""


def _may_be_path(text: str) -> bool:
    return "/" in text and len(text) < _LONGEST_PATH and text.isprintable() and "://" not in text


def _constant_use(node: ast.Call | ast.Subscript) -> tuple[str, str]:
    """Return ``environ.get`` and ``X`` for ``os.environ.get("X")``, and empty strings for what has no constant."""
    target, argument = (node.func, node.args[:1]) if isinstance(node, ast.Call) else (node.value, [node.slice])
    if not argument or not isinstance(argument[0], ast.Constant) or not isinstance(argument[0].value, str):
        return "", ""
    return _dotted(target).removeprefix("os.").removeprefix("importlib."), argument[0].value


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from _running_nodes(other)
            continue
        yield child
        yield from _running_nodes(child)
