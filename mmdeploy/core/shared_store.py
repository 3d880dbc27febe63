"""The store that machines share: what one has made, all others take, verified, into their own.

Layout at the place::

    store.json               says that a store lies here
    entries/<key>.json       an entry's seal: the key, and SHA-256 and size of every file
    blobs/<ab>/<sha256>      a file's content; several entries may name it, and it is sent once
    reads/<name>/<sha>.json  what a callable of a recipe was seen to read, one file a reading

A seal is written when everything that it names is there, so that no entry is half visible. Of two machines that make
the same entry at once each sends whole contents under their digests; the later seal stays. All is verified when it is
taken. What is damaged is refused by name, and made and sent again. Facts about a machine's files, what a step's latest
run was made of, and checkpoints of steps that are not done stay on their machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.errors import MmdeployError
from mmdeploy.core.shared_place import SharedPlace

logger = logging.getLogger(__name__)

_THREADS = 8
#: Readings that are taken of one callable.
_MOST = 16


class DamagedEntryError(Exception):
    """What was taken is not what its seal says."""


@dataclass(frozen=True)
class Seal:
    """What a shared entry is made of.

    Attributes:
        files: SHA-256 and size by name.
    """

    files: Mapping[str, tuple[str, int]]

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(size for _, size in self.files.values())

    def to_json(self, key: str) -> bytes:
        """Serialize, with the entry's key."""
        files = {name: {"sha256": digest, "bytes": size} for name, (digest, size) in sorted(self.files.items())}
        return json.dumps({"key": key, "files": files}, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, key: str) -> Seal:
        """Read what `to_json` wrote.

        Raises:
            DamagedEntryError: If it is something else, that of another entry, or names files elsewhere.
        """
        try:
            fields = json.loads(content)
            files = {str(name): (str(one["sha256"]), int(one["bytes"])) for name, one in fields["files"].items()}
            found = fields["key"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedEntryError("its seal cannot be read") from error
        if found != key:
            raise DamagedEntryError(f"it was sealed under another key, {str(found)[:12]}")
        for name, (digest, _) in files.items():
            parts = PurePosixPath(name).parts
            if (
                not parts
                or ".." in parts
                or name.startswith("/")
                or len(digest) != 64
                or digest.strip("0123456789abcdef")
            ):
                raise DamagedEntryError("its seal names what is no file of an entry")
        return cls(files)


class SharedStore:
    """The entries at a shared place.

    Until it was found to be there (`require`) what goes wrong is raised. From then on a place that goes away stops
    nothing: it is as if it held no entries, and `away` says why.

    Attributes:
        place: Where they lie.
        read_only: Whether nothing is sent.
        away: Why it is not asked any more; empty as long as it is.
        taken: Bytes of each entry that was taken, by key.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Take the URL; nothing is asked of the place yet.

        Raises:
            UsageError: If it names no place.
        """
        self.place, self.read_only, self.away = SharedPlace(url), read_only, ""
        self.taken: dict[str, int] = {}
        self._seals: dict[str, Seal | None] = {}
        self._damaged: set[str] = set()
        self._readings: dict[str, list[Any]] = {}
        self._opened = self._required = False

    def __str__(self) -> str:
        return str(self.place)

    def __reduce__(self) -> tuple[object, ...]:
        """Cross process boundaries as a URL."""
        return (_again, (self.place.url, self.read_only))

    def require(self) -> None:
        """Make sure, before work begins, that the place can be used as it is meant to be.

        Raises:
            EnvironmentUnfitError: If a package or the credentials are missing.
            StoreError: If it cannot be reached, read or written.
        """
        if self._required:
            return
        if not self.read_only:
            self.place.require_writable()
        elif not self.place.require_readable():
            logger.warning("nothing is stored at %s yet", self.place)
        self._opened = self._required = True

    def expect(self, keys: Iterable[str]) -> None:
        """Find out of several entries at once whether they are there."""
        unknown = [key for key in dict.fromkeys(keys) if key not in self._seals]
        if unknown and self._open():
            found = self._tried(lambda: self.place.read_all(map(_seal_name, unknown)), {})
            for key in unknown:
                self._seals[key] = self._parsed(key, found.get(_seal_name(key)))

    def seal(self, key: str) -> Seal | None:
        """Return what an entry is made of; None where there is none."""
        self.expect([key])
        return self._seals.get(key)

    def has(self, key: str) -> bool:
        """Say whether there is an entry, without verifying it."""
        return self.seal(key) is not None

    def look_again(self, key: str) -> None:
        """Forget whether there is an entry: another machine may have sent it meanwhile."""
        self._seals.pop(key, None)

    def take(self, key: str, folder: Path, names: Iterable[str] | None = None) -> bool:
        """Take an entry's files into an empty folder, verified.

        Args:
            key: The entry's.
            folder: Of this machine.
            names: The only files that are wanted; None for all.

        Returns:
            Whether it was there, and whole.

        Raises:
            OSError: If this machine's disk is full.
        """
        seal = self.seal(key)
        if seal is None:
            return False
        wanted = seal.files if names is None else {name: seal.files[name] for name in names if name in seal.files}
        try:
            there = self._tried(lambda: self._take(wanted, folder), None)
        except DamagedEntryError as error:
            self.refuse(key, str(error))
            return False
        if there and names is None:
            self.taken[key] = seal.size_bytes
        return bool(there)

    def refuse(self, key: str, problem: str) -> None:
        """Take note that an entry is damaged: it is not taken, and sent again when it was made again."""
        logger.warning("entry %s of %s is damaged (%s): not taken, it will be made again", key[:12], self, problem)
        self._damaged.add(key)
        self._seals[key] = None

    def send(self, key: str, entry: Path, *, replace: bool = False) -> bool:
        """Send an entry of this machine, unless it is there; an old seal is renewed, so that a cleaning spares it.

        Args:
            key: The entry's.
            entry: Its folder, verified.
            replace: Whether it takes the place of one that is there.

        Returns:
            Whether there was something to be sent.

        Raises:
            StoreError: If it could not be sent.
        """
        anew = replace or key in self._damaged
        there = None if anew else self._parsed(key, self.place.read(_seal_name(key)))
        if there is not None:
            self.place.write(_seal_name(key), there.to_json(key))
            return False
        files = {path.relative_to(entry).as_posix(): path for path in sorted(entry.rglob("*")) if path.is_file()}
        seal = Seal({name: (file_sha256(path), path.stat().st_size) for name, path in files.items()})
        damaged = key in self._damaged
        skipped = {name for name in files if not self._sent(files[name], *seal.files[name], anew=damaged)}
        self.place.write(_seal_name(key), seal.to_json(key))
        for name in skipped:  # a cleaning may have removed what nothing named until now
            self._sent(files[name], *seal.files[name])
        self._damaged.discard(key)
        self._seals[key] = seal
        return True

    def readings(self, name: str) -> list[Any]:
        """Return what was seen elsewhere of what a callable reads, the newest first."""
        if name not in self._readings:
            self._readings[name] = self._tried(lambda: self._read_readings(name), []) if self._open() else []
        return self._readings[name]

    def send_reading(self, name: str, reading: object) -> None:
        """Send one reading of a callable."""
        content = json.dumps(reading, indent=1, sort_keys=True).encode()
        self.place.write(f"{name}/{hashlib.sha256(content).hexdigest()}.json", content)

    def _read_readings(self, name: str) -> list[Any]:
        found = self.place.files(name)
        newest = sorted(found, key=lambda one: -found[one].changed_at)[:_MOST]
        contents, readings = self.place.read_all(newest), []
        for one in newest:
            content = contents.get(one, b"")
            if hashlib.sha256(content).hexdigest() == PurePosixPath(one).stem:
                readings.append(json.loads(content))
            else:
                logger.warning("%s of %s is damaged: not taken", one, self)
        return readings

    def _take(self, wanted: Mapping[str, tuple[str, int]], folder: Path) -> bool:
        def taken(name: str) -> str:
            digest, path = wanted[name][0], folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self.place.download(_blob_name(digest), path):
                return f"{name} is missing"
            return "" if file_sha256(path) == digest else f"{name} is not what was sealed"

        with ThreadPoolExecutor(_THREADS) as pool:
            problems = [problem for problem in pool.map(taken, wanted) if problem]
        if problems:
            raise DamagedEntryError(", ".join(problems))
        return True

    def _sent(self, path: Path, digest: str, size: int, *, anew: bool = False) -> bool:
        """Send a content; return whether it had to be: not where it is there, at its full size."""
        name = _blob_name(digest)
        if not anew and self.place.size(name) == size:
            return False
        self.place.upload(path, name)
        return True

    def _parsed(self, key: str, content: bytes | None) -> Seal | None:
        if content is None:
            return None
        try:
            return Seal.from_json(content, key)
        except DamagedEntryError as error:
            self.refuse(key, str(error))
            return None

    def _open(self) -> bool:
        """Say whether the place is asked; it is opened where that was not done."""
        if not self._opened and not self.away:
            self.place.require_readable()
            self._opened = True
        return not self.away

    def _tried(self, ask: Any, otherwise: Any) -> Any:
        """Ask the place; one that has gone away since work began holds nothing any more."""
        if self.away:
            return otherwise
        try:
            return ask()
        except MmdeployError as error:
            if not self._required:
                raise
            self.away = error.message
            logger.warning("%s; going on without it", error.message)
            return otherwise


def _again(url: str, read_only: bool) -> SharedStore:
    return SharedStore(url, read_only=read_only)


def _seal_name(key: str) -> str:
    return f"entries/{key}.json"


def _blob_name(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"
