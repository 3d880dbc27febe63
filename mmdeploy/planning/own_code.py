"""Which of mmdeploy's own code decides what a step gives: what runs inside the step's process.

Imports are followed from the modules that a step starts in. They are not followed into what only decides *which* steps
there are and with which options, since that stands in a step's identity by its value; nor into what judges, serves and
reports. A package's literal dict of methods is passed over, too: adding a method changes no step of another.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import UsageError
from mmdeploy.model.imports import Mentions, code_digest, imported_names, mentions, module_files

_PACKAGE = Path(__file__).parents[1]
_TOP = _PACKAGE.name
#: Rooms in which nothing decides what a step gives that its identity does not hold.
_OUTSIDE = {"api", "building", "cli", "gates", "planning", "preprocess", "recipe", "record", "report", "triton"}
#: Modules of those rooms that do.
_INSIDE = {
    *(f"{_TOP}.recipe.{name}" for name in ("wiring", "modalities", "cascade", "cascade_stages")),
    *(f"{_TOP}.triton.steps.{name}" for name in ("modalities", "condition")),
}
#: Packages whose ``__init__`` is a literal dict of methods; each method is a module that a step starts in.
_REGISTRIES = {f"{_TOP}.{room}" for room in ("engines", "export", "prune", "quantize", "recover")}
#: Modules that ask others by name for what to run: those are started in of their own.
_ASKING = {f"{_TOP}.worker.run_step", f"{_TOP}.worker.context"}


def own_code(modules: Iterable[str], facts: FileFacts) -> dict[str, str]:
    """Return the digest of each file of mmdeploy that decides what a step gives which starts in some modules.

    Args:
        modules: Dotted names.
        facts: Keeps what was read of files that did not change.
    """
    seen: dict[str, str] = {}
    waiting = [name for name in modules if _decides(name)]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        if name not in _modules:  # what is loaded does not change any more
            _modules[name] = _taken(name, facts)
        seen[name], imported = _modules[name]
        waiting.extend(imported)
    return {f"{name.replace('.', '/')}.py": found for name, found in sorted(seen.items())}


#: Digest of a module, and the modules that it imports, by name.
_modules: dict[str, tuple[str, tuple[str, ...]]] = {}


def _taken(name: str, facts: FileFacts) -> tuple[str, tuple[str, ...]]:
    folder = _PACKAGE.parent
    path = module_files(name, folder)[-1]
    try:
        found = code_digest(path, facts)
        imported = _imported(path, mentions(path, facts)) if name not in _ASKING else ()
    except OSError as error:
        raise UsageError(f"mmdeploy's own {path} cannot be read: {error.strerror}", hint="install it anew") from error
    return found, tuple(sorted({one for one in imported if _decides(one)}))


def _imported(path: Path, found: Mentions) -> Iterable[str]:
    """Give what a module of ours imports of mmdeploy, as `imported_names` does, without asking the disk for each."""
    if any(level for level, *_ in found.modules):
        return imported_names(path, _PACKAGE.parent, found, [_PACKAGE.parent])
    ours = [one for one in found.modules if one[1].partition(".")[0] == _TOP]
    return (deeper if name and (deeper := f"{module}.{name}") in _names() else module for _, module, name in ours)


@functools.cache
def _names() -> frozenset[str]:
    """Return the dotted names of mmdeploy's modules and packages."""
    found = set()
    for folder, _, files in os.walk(_PACKAGE):
        package = os.path.relpath(folder, _PACKAGE.parent).replace(os.sep, ".")
        found |= {f"{package}.{file.removesuffix('.py')}" for file in files if file.endswith(".py")}
        found |= {package} if "__init__.py" in files else set()
    return frozenset(found)


@functools.cache
def _decides(name: str) -> bool:
    top, _, inside = name.partition(".")
    room = inside.partition(".")[0]
    return top == _TOP and name not in {_TOP, *_REGISTRIES} and (room not in _OUTSIDE or name in _INSIDE)


def merged(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the files of several parts."""
    return {name: found for part in parts for name, found in part.items()}
