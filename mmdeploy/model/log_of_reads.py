"""From the log of what was seen while the recipe's callables ran to one `Reading` for each."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import StepError
from mmdeploy.core.store import Store
from mmdeploy.model.distributions import gives, installed_as, required_by
from mmdeploy.model.imports import Code
from mmdeploy.model.places import name_of, within
from mmdeploy.model.reads import Reading, content_of, is_ours

_OWN_DISTRIBUTION = "multimodal-deploy"
_MODULE = "module "
#: Content of a file that was written while it may have been read: that of no file, so that it is read again.
_UNKNOWN = "changed while it was open"


@dataclass
class _Seen:
    """What the log says of one reader."""

    files: dict[str, Any] = field(default_factory=dict)
    native: dict[str, Any] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    libraries: set[str] = field(default_factory=set)
    shared: set[tuple[str, str]] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)


def readings(logs: Path, codes: Mapping[str, Code], store: Store, root: Path) -> dict[str, Reading]:
    """Return what each callable read that ran.

    Args:
        logs: Folder of the logs that `mmdeploy.model.watching.watched` wrote.
        codes: The code behind each callable that may have run, by reference.
        store: Keeps digests of files that did not change.
        root: Folder of the recipe, resolved.

    Raises:
        StepError: If a file is another one now than when it was opened.
    """
    seen, written = _parsed(logs)
    found = {}
    for reader in [reader for reader in seen if reader in codes]:
        own = {str(path) for path in codes[reader].files}
        found[reader] = _reading(reader, [seen[reader], *_of_modules(seen, reader, own)], written | own, store, root)
    return found


def _of_modules(seen: Mapping[str, _Seen], reader: str, own: set[str]) -> list[_Seen]:
    """Return what the modules behind a callable read while they were imported, those imported by computed names too."""
    parts, files = [], own | set(seen[reader].files)
    waiting = [name for name in seen if name.startswith(_MODULE)]
    while here := [name for name in waiting if name.removeprefix(_MODULE) in files]:
        for name in here:
            waiting.remove(name)
            parts.append(seen[name])
            files |= set(seen[name].files)
    return parts


def _parsed(logs: Path) -> tuple[dict[str, _Seen], set[str]]:
    seen: dict[str, _Seen] = defaultdict(_Seen)
    written: set[str] = set()
    for reader, how, what, state in _lines(logs):
        one = seen[reader]
        match how:
            case "read" | "absent":
                one.files.setdefault(what, state)
            case "native":
                one.native.setdefault(what, state)
            case "listed":
                one.listed.add(what)
            case "wrote":
                written.add(what)
            case "library":
                one.libraries.add(what)
            case "shared":
                one.shared.update((first, second) for first, second in json.loads(what))
            case "unseen":
                one.unseen.add(what)
    return seen, written


def _lines(logs: Path) -> Iterator[tuple[str, str, str, Any]]:
    for log in sorted(logs.glob("*.reads")):
        for line in log.read_text(encoding="utf-8").splitlines():
            reader, how, what, state = json.loads(line)
            yield reader, how, what, state


def _reading(reader: str, parts: list[_Seen], dropped: set[str], store: Store, root: Path) -> Reading:
    certain, native = _opened(parts)
    own = str(store.root)
    kept = dict(_kept({**native, **certain}, dropped, own, str(root)))
    names = {path: name_of(path, root) for path in kept}
    files = {
        name: content_of(path, folder=False, facts=store.facts, own=store.root)
        if not _changed(path, kept[path])
        else _unknown(name, reader, certain=path in certain)
        for path, name in names.items()
    }
    for path in {path for part in parts for path in part.listed if not _below_own(f"{path}/x", own, str(root))}:
        names[path] = f"{name_of(path, root)}/"
        files[names[path]] = content_of(path, folder=True, facts=store.facts, own=store.root)
    return Reading(
        files=dict(sorted(files.items())),
        places={name: path for path, name in names.items() if name.startswith("..")},
        uncertain=tuple(sorted(names[path] for path in kept if path in native)),
        libraries=_installations({top for part in parts for top in part.libraries}, store),
        shared=tuple(sorted({pair for part in parts for pair in part.shared})),
        unseen=tuple(sorted({what for part in parts for what in part.unseen})),
    )


def _opened(parts: list[_Seen]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the files that Python opened, and those that only the kernel saw, with their state at that time."""
    certain = {path: state for part in reversed(parts) for path, state in part.files.items()}
    real = {os.path.realpath(path) for path in certain}
    native = {path: state for part in reversed(parts) for path, state in part.native.items()}
    return certain, {
        path: state for path, state in native.items() if path not in certain and os.path.realpath(path) not in real
    }


def _unknown(name: str, reader: str, *, certain: bool) -> str:
    if not certain:
        return _UNKNOWN
    raise StepError(
        f"{name} changed while {reader} was running: which of its contents was read is not known", hint="build again"
    )


def _installations(tops: set[str], store: Store) -> dict[str, str]:
    """Return the installations of packages that were loaded; those that mmdeploy itself requires are known as such."""
    known = required_by(_OWN_DISTRIBUTION, store.facts)
    return {top: installed_as(top, store.facts) for top in sorted(tops) if gives(top, store.facts) not in known}


def _kept(states: Mapping[str, Any], dropped: set[str], own: str, root: str) -> Iterator[tuple[str, Any]]:
    """Leave out what the callable made itself, and what was there for a while only."""
    for path, state in states.items():
        there = os.path.isfile(path)  # noqa: PTH113
        if path in dropped or there is not (state is not None) or _below_own(path, own, root):
            continue
        yield path, state


def _below_own(path: str, own: str, root: str) -> bool:
    """Say whether a path lies in a folder that mmdeploy made."""
    while len(path) > 1 and path != root:
        path = os.path.dirname(path)  # noqa: PTH120
        if path != root and not within(root, path) and is_ours(path, own):
            return True
    return False


def _changed(path: str, state: Any) -> bool:
    if state is None:
        return False
    status = Path(path).stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns] != list(state)[:3]
