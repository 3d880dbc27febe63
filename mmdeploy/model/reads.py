"""What a callable of the recipe was seen to read, kept so that the next plan notices when any of it changed.

A `Reading` names files with their digests, folders with a digest of what they list, files that were looked for and not
there, and packages that were loaded. It is kept under the callable's reference and the digest of its code: the same
code that meets the same content reads the same files. Content that differs may lead elsewhere, so several readings are
kept side by side, the newest first; one of which everything is as it was says exactly what would be read now.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmdeploy.core.digests import FileFacts
from mmdeploy.core.store import Store
from mmdeploy.model.distributions import installed_as
from mmdeploy.model.imports import code_digest
from mmdeploy.model.places import found

#: What stands for the content of a file that is not there.
ABSENT = "absent"
#: Readings kept of one callable: as many contents of what it reads.
_MOST = 16


@dataclass(frozen=True)
class Reading:
    """What a callable read.

    Attributes:
        files: Digest by name (`mmdeploy.model.places.name_of`); names of folders that were listed end with a slash.
        places: Where those files lay that are outside of the recipe's folder.
        uncertain: Those of the files that only the kernel saw opened; where it may not say by whom, by another process.
        libraries: What tells their installation, of packages that were loaded, by top-level name.
        shared: Of a model: pairs of names in its state dict, or of modules; what has the first works with the second.
        unseen: What else it reads and cannot be followed, for people.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    uncertain: tuple[str, ...] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[tuple[str, str], ...] = ()
    unseen: tuple[str, ...] = ()

    def agrees(self, other: Reading) -> bool:
        """Say whether two readings can be of the same world: what both name is the same in both."""
        return all(other.files.get(name, value) == value for name, value in self.files.items()) and all(
            other.libraries.get(name, value) == value for name, value in self.libraries.items()
        )

    def with_more(self, other: Reading, *, whole: bool) -> Reading:
        """Return what two readings of the same world saw together.

        Args:
            other: The other one.
            whole: Whether each of them is of a complete run, so that what only one saw another process open was not
                read by the callable.
        """
        mine, others = set(self.files) - set(self.uncertain), set(other.files) - set(other.uncertain)
        certain = mine | others
        maybe = {*self.uncertain, *other.uncertain} - certain
        if whole:
            maybe &= set(self.files) & set(other.files)
        files = {name: value for name, value in {**self.files, **other.files}.items() if name in certain | maybe}
        return Reading(
            files=dict(sorted(files.items())),
            places={name: place for name, place in {**self.places, **other.places}.items() if name in files},
            uncertain=tuple(sorted(maybe)),
            libraries=dict(sorted({**self.libraries, **other.libraries}.items())),
            shared=tuple(sorted({*self.shared, *other.shared})),
            unseen=tuple(sorted({*self.unseen, *other.unseen})),
        )


class Readings:
    """The readings of the callables of a recipe, in a store."""

    def __init__(self, store: Store, root: Path) -> None:
        """Take the store and the recipe's folder, resolved."""
        self._store, self._root = store, root

    def now(self, reference: str, source: str) -> Reading | None:
        """Return what a callable would read now, with its present content; None where nothing is known of it.

        Where none of the readings that are kept is of the present world, the newest one's files are given as they are
        now, and what will be read is known when the callable has run.

        Args:
            reference: The callable.
            source: Digest of its code.
        """
        newest: Reading | None = None
        for known in (self._kept, self._from_elsewhere):
            for kept in known(reference, source):
                present = self._as_it_is(kept)
                if present == kept:
                    return kept
                newest = newest or present
        return newest

    def share(self, reference: str, source: str) -> None:
        """Send the newest reading to the place that machines share, if it is not known to be there.

        Raises:
            StoreError: If it could not be sent.
        """
        newest, shared = next(self._kept(reference, source), None), self._store.shared
        if newest is None or shared is None:
            return
        name, content = _document(reference, source), asdict(newest)
        note = hashlib.sha256(json.dumps([name, content], sort_keys=True).encode()).hexdigest()
        if self._store.notes.is_old(note):
            shared.send_reading(name, content)
            self._store.notes.renew(note)

    def keep(self, reference: str, source: str, reading: Reading, *, whole: bool) -> None:
        """Add a reading to what is known of a callable; ``whole`` as in `Reading.with_more`."""
        name = _document(reference, source)
        with self._store.claimed(hashlib.sha256(name.encode()).hexdigest()):
            kept = list(self._kept(reference, source))
            same = next((one for one in kept if one.agrees(reading)), None)
            together = reading if same is None else same.with_more(reading, whole=whole)
            others = [one for one in kept if one is not same]
            content = [asdict(one) for one in [together, *others][:_MOST]]
            self._store.write_json(name, {"reference": reference, "readings": content})

    def _from_elsewhere(self, reference: str, source: str) -> list[Reading]:
        """Return what was seen on other machines, and keep it."""
        if self._store.shared is None:
            return []
        name = _document(reference, source)
        mine, found = list(self._kept(reference, source)), list[Reading]()
        for content in self._store.shared.readings(name):
            with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):  # of another version of mmdeploy
                one = _from_json(content)
                found += [one] if one not in (*mine, *found) else []
        if found:
            with self._store.claimed(hashlib.sha256(name.encode()).hexdigest()):
                readings = [asdict(one) for one in [*mine, *found][:_MOST]]
                self._store.write_json(name, {"reference": reference, "readings": readings})
        return found

    def _kept(self, reference: str, source: str) -> Iterator[Reading]:
        content = self._store.read_json(_document(reference, source))
        try:
            yield from [_from_json(one) for one in content["readings"]]
        except (TypeError, KeyError, ValueError, AttributeError):
            return  # nothing is known, or a damaged note: the callable runs and is seen again

    def _as_it_is(self, kept: Reading) -> Reading:
        facts = self._store.facts
        files = {name: self._content(name, kept.places.get(name, "")) for name in kept.files}
        libraries = {name: installed_as(name, facts) for name in kept.libraries}
        return replace(kept, files=files, libraries=libraries)

    def _content(self, name: str, recorded: str) -> str:
        """Return the present digest of a file or folder; of two that may be meant, both where they differ."""
        every = {
            content_of(place, folder=name.endswith("/"), facts=self._store.facts, own=self._store.root)
            for place in found(name.rstrip("/"), recorded, self._root)
        }
        return every.pop() if len(every) == 1 else " or ".join(sorted(every))


def content_of(path: str, *, folder: bool, facts: FileFacts, own: Path) -> str:
    """Return the digest of a file, or of what a folder lists; `ABSENT` for what is not there.

    Hidden files, bytecode and what mmdeploy itself makes in a folder are no part of its listing.

    Args:
        path: Absolute.
        folder: Whether it was listed.
        facts: Keeps digests of files that did not change.
        own: The store's folder.
    """
    try:
        if not folder:
            return code_digest(Path(path), facts) if os.path.isfile(path) else ABSENT  # noqa: PTH113
        names = [name for name in os.listdir(path) if not _unlisted(path, name, str(own))]  # noqa: PTH208
    except OSError as error:
        return ABSENT if isinstance(error, FileNotFoundError | NotADirectoryError) else f"unreadable: {error.strerror}"
    return hashlib.sha256("\0".join(["listing", *sorted(names)]).encode("utf-8", "surrogatepass")).hexdigest()


def is_ours(path: str, own: str) -> bool:
    """Say whether a folder is a store, a work folder with one, or a root of published repositories."""
    return path == own or any(os.path.isdir(f"{path}/{mark}") for mark in ("store/entries", ".releases"))  # noqa: PTH112


def _unlisted(path: str, name: str, own: str) -> bool:
    return name.startswith((".", "__pycache__")) or is_ours(f"{path}/{name}", own)


def _from_json(content: Mapping[str, Any]) -> Reading:
    return Reading(
        files=dict(content["files"]),
        places=dict(content["places"]),
        uncertain=tuple(content["uncertain"]),
        libraries=dict(content["libraries"]),
        shared=tuple((first, second) for first, second in content["shared"]),
        unseen=tuple(content["unseen"]),
    )


def _document(reference: str, source: str) -> str:
    return f"reads/{hashlib.sha256(json.dumps([reference, source]).encode()).hexdigest()}"


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Say what differs between the contents of two readings, file by file."""
    names = sorted({*before, *after})
    return [_change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _change(name: str, before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return f"{name} is read now" if before is None else f"{name} is not read any more"
    if ABSENT in (before, after):
        return f"{name} is gone" if after == ABSENT else f"{name} is there now"
    return f"{name} lists other files" if name.endswith("/") else f"{name} changed"
