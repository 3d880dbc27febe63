"""The content-addressed artifact store: a step that was done once is never done again.

Layout under the root::

    entries/<key>/artifact.json    the Artifact
    entries/<key>/identity.json    what the key was made of, label by label
    entries/<key>/seal.json        the key, and SHA-256 of every other file of the entry
    entries/<key>/…                the files that the step wrote
    latest/<recipe>/<step>.json    identity of the step's latest run, to say *why* a step must run
    in-use.lock                    held by builds together, by a cleaning alone
    facts.json                     digests of files that were read, with the files' times and sizes
    locks/<key>.lock               held while a process makes the entry
    parts/<digest>.json            what a digest in an identity is of: digests by name, such as those of files
    reads/<name>.json              what the recipes' callables were seen to read; `mmdeploy.model.reads`
    shared/<place>/<key>           empty; the place that machines share has the entry, as of the file's time
    scratch/<key>/                 checkpoints and journals of a step that is not done yet; survives when it is killed
    staging/<pid>-<random>/        being written; renamed into entries/ when whole

An entry appears by one rename, so it is whole or not there. It is verified against its seal whenever it is
taken: the seal holds the key, so that an entry that was moved to another's place is no better than a damaged one. A
file whose times and size have not changed since it was last read is not read again. What is damaged is moved away and
made again. Two builds that want the same entry at once share the work: the second waits for the first.

An entry that is not here may lie at a place that machines share (`mmdeploy.core.shared_store`): this store is then the
cache in front of it, and is asked first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any, BinaryIO

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import StoreError
from mmdeploy.core.room import out_of_space
from mmdeploy.core.shared_notes import SharedNotes
from mmdeploy.core.shared_store import SharedStore

logger = logging.getLogger(__name__)

_SEAL = "seal.json"
_ARTIFACT = "artifact.json"
_IDENTITY = "identity.json"
_THREADS = 4


class Store:
    """The artifact store under one folder; safe for several processes at once."""

    def __init__(self, root: Path, shared: SharedStore | None = None) -> None:
        """Open the store, making it where it is not there yet.

        Args:
            root: Its folder.
            shared: Where entries are that others made, and where `share` sends those that were made here.

        Raises:
            StoreError: If the folder cannot be made or written.
        """
        self.root, self.shared = root.absolute(), shared
        with translated(self.root):
            for name in ("entries", "latest", "locks", "parts", "reads", "scratch", "staging"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            if not os.access(self.root / "staging", os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.root))
            self.sweep()
        self.facts = FileFacts(self.root / "facts.json")
        self.notes = SharedNotes(self.root / "shared", str(shared))

    def get(self, key: str) -> Artifact | None:
        """Return the verified artifact of a key; None when there is none, or when it was damaged."""
        entry = self.entry(key)
        if not entry.is_dir():
            return self._taken(key)
        problem = self._damage(entry, key)
        if problem is None:
            with contextlib.suppress(OSError):  # a cleaning goes by when an entry was last of use
                os.utime(entry)
            return Artifact.from_json((entry / _ARTIFACT).read_text(encoding="utf-8"), entry)
        logger.warning("store entry %s is damaged (%s): moved away, it will be made again", key[:12], problem)
        with translated(self.root):
            entry.rename(self.root / "staging" / f"{os.getpid()}-damaged-{secrets.token_hex(4)}")
        return self._taken(key)

    def has(self, key: str) -> bool:
        """Say whether there is an entry, here or at the shared place, without verifying it."""
        return self.is_here(key) or (self.shared is not None and self.shared.has(key))

    def is_here(self, key: str) -> bool:
        """Say whether there is an entry on this machine, without verifying it."""
        return self.entry(key).is_dir()

    def expect(self, keys: Iterable[str]) -> None:
        """Find out at once of which entries the shared place has those that are not here."""
        away = [key for key in keys if not self.is_here(key)]
        if self.shared is not None and away:
            self.shared.expect(away)

    def fetch(self, keys: Iterable[str]) -> None:
        """Take several entries from the shared place side by side, as far as it has them and they are not here."""
        if self.shared is not None and (away := [key for key in dict.fromkeys(keys) if not self.is_here(key)]):
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(self._taken, away))

    def share(self, key: str, *, replace: bool = False) -> bool:
        """Send an entry that is here to the shared place, if it is not known to be there.

        Args:
            key: The entry's.
            replace: Whether it takes the place of one that is there.

        Returns:
            Whether its files had to be sent.

        Raises:
            StoreError: If it could not be sent.
        """
        if self.shared is None or not (replace or self.notes.is_old(key)):
            return False
        sent = self.shared.send(key, self.entry(key), replace=replace)
        self.notes.renew(key)
        return sent

    def apart(self) -> Store:
        """Return this store as it is without the shared place."""
        here = copy(self)
        here.shared = None
        return here

    def entry(self, key: str) -> Path:
        """Return where the entry of a key lies, or would: nothing is verified."""
        return self.root / "entries" / key

    def folder_with(self, key: str, *names: str) -> Path:
        """Return a folder that has some files of an entry, wherever it is; of one at the shared place only those."""
        if self.shared is None or self.is_here(key) or not self.shared.has(key):
            return self.entry(key)
        folder = self.root / "shared" / "files" / key
        if not all((folder / name).is_file() for name in names):
            with self.staging() as staging, translated(self.root):
                if self.shared.take(key, staging, names):
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    shutil.rmtree(folder, ignore_errors=True)
                    _move(staging, folder)
        return folder

    def identity(self, key: str) -> dict[str, str] | None:
        """Return what an entry's key was made of; None when there is no such entry here."""
        found = self.read_json(f"entries/{key}/{_IDENTITY.removesuffix('.json')}")
        return found if isinstance(found, dict) else None

    def metadata(self, key: str) -> dict[str, Any]:
        """Return the facts of an entry, without verifying it; empty when there is none."""
        try:
            found = json.loads((self.folder_with(key, _ARTIFACT) / _ARTIFACT).read_text(encoding="utf-8"))
            return dict(found["metadata"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @contextlib.contextmanager
    def claimed(self, key: str) -> Iterator[None]:
        """Hold the key's lock: of several builds, one makes the entry and the others wait for it."""
        from filelock import FileLock

        lock = FileLock(self.root / "locks" / f"{key}.lock")
        with translated(self.root):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep what is here from being cleaned away while a build counts on it."""
        with self._locking() as file:
            with contextlib.suppress(OSError):  # a file system without locks: then nothing is cleaned there either
                fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store while no build does.

        Raises:
            StoreError: If a build is running, or the file system cannot tell.
        """
        with self._locking() as file:
            try:
                with translated(self.root / "in-use.lock"):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except StoreError as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
                hint = "clean when it is done; nothing was removed"
                raise StoreError(f"a build is running in {self.root.parent}", hint=hint) from None
            yield

    def _locking(self) -> BinaryIO:
        with translated(self.root):
            return (self.root / "in-use.lock").open("ab")

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder on the store's file system; what is not added by the end is removed."""
        with translated(self.root):
            folder = self.root / "staging" / f"{os.getpid()}-{secrets.token_hex(8)}"
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def scratch(self, key: str) -> Path:
        """Return the folder, made where it is not there, in which a step keeps what it goes on from after a kill."""
        folder = self.root / "scratch" / key
        with translated(self.root):
            folder.mkdir(exist_ok=True)
        return folder

    def add(self, key: str, artifact: Artifact, identity: Mapping[str, str], *, replace: bool = False) -> Artifact:
        """Seal the artifact's folder and move it into the store under ``key``.

        Args:
            key: From the plan.
            artifact: Its path lies directly in a folder that `staging` gave.
            identity: What the key was made of.
            replace: Whether it takes the place of an entry that is there; otherwise that one stays.

        Returns:
            The artifact at its place in the store.
        """
        folder, entry = artifact.path.parent, self.entry(key)
        with translated(self.root):
            (folder / _ARTIFACT).write_text(artifact.to_json(), encoding="utf-8")
            self._seal(folder, key, identity)
            _sync(folder)
            if replace and entry.is_dir():
                entry.rename(self.root / "staging" / f"{os.getpid()}-replaced-{secrets.token_hex(4)}")
            self._placed(folder, entry)
        shutil.rmtree(self.root / "scratch" / key, ignore_errors=True)
        return Artifact.from_json((entry / _ARTIFACT).read_text(encoding="utf-8"), entry)

    def readdress(self, old: str, new: str, identity: Mapping[str, str]) -> None:
        """Give an entry a second key: more is known now of what decides its content, and the content is the same."""
        if not self.is_here(old) or self.is_here(new):
            return
        with self.staging() as folder, translated(self.root):
            shutil.copytree(self.entry(old), folder, dirs_exist_ok=True)
            self._seal(folder, new, identity)
            _sync(folder)
            self._placed(folder, self.entry(new))

    def read_json(self, name: str) -> Any:
        """Return what `write_json` wrote under a name such as ``reads/x``; None when there is nothing of use."""
        try:
            return json.loads((self.root / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, content: object) -> None:
        """Write a small file by one rename."""
        path = self.root / f"{name}.json"
        with translated(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            staged.write_text(json.dumps(content, indent=1), encoding="utf-8")
            staged.replace(path)

    def latest_identity(self, recipe: str, step: str) -> dict[str, str] | None:
        """Return the identity that a step had when it last ran or was reused, or None."""
        identity = self.read_json(_latest(recipe, step))
        return identity if isinstance(identity, dict) else None

    def remember(
        self,
        recipe: str,
        step: str,
        identity: Mapping[str, str],
        parts: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Record the identity of a step that has just run or was reused, and what digests in it are of."""
        for digest, content in (parts or {}).items():
            if not (self.root / f"parts/{digest}.json").is_file():
                self.write_json(f"parts/{digest}", dict(content))
        self.write_json(_latest(recipe, step), dict(identity))

    def parts(self, digest: str) -> dict[str, str]:
        """Return the names and digests that a digest in a remembered identity is of; empty where none is known."""
        content = self.read_json(f"parts/{digest}")
        return content if isinstance(content, dict) else {}

    def _placed(self, folder: Path, entry: Path) -> None:
        """Move a sealed folder to its place; what was read of its files is known there."""
        _move(folder, entry)
        self.facts.moved(folder, entry)

    def _seal(self, folder: Path, key: str, identity: Mapping[str, str]) -> None:
        (folder / _IDENTITY).write_text(json.dumps(dict(identity), indent=1), encoding="utf-8")
        seal = {"key": key, "files": self._digests(folder)}
        (folder / _SEAL).write_text(json.dumps(seal, indent=1), encoding="utf-8")

    def _digests(self, folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL)
        return {str(path.relative_to(folder)): digest for path, digest in self.facts.sha256_of(files).items()}

    def _taken(self, key: str) -> Artifact | None:
        """Take an entry from the shared place, verified; None where there is none, or it was damaged."""
        if self.shared is None:
            return None
        with self.staging() as folder, translated(self.root):
            if not self.shared.take(key, folder):
                return None
            if problem := self._damage(folder, key):
                self.shared.refuse(key, problem)
                return None
            _sync(folder)
            entry = self.entry(key)
            self._placed(folder, entry)
        self.notes.renew(key)
        return Artifact.from_json((entry / _ARTIFACT).read_text(encoding="utf-8"), entry)

    def _damage(self, entry: Path, sealed_as: str) -> str | None:
        try:
            seal = json.loads((entry / _SEAL).read_text(encoding="utf-8"))
            key, sealed = seal["key"], dict(seal["files"])
            found = self._digests(entry)
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its seal or a file cannot be read: {error}"
        if key != sealed_as:
            return f"it was sealed under another key, {str(key)[:12]}"
        wrong = sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
        return f"differs from its seal: {', '.join(wrong)}" if wrong else None

    def sweep(self) -> None:
        """Remove what killed steps and builds left in staging."""
        for folder in (self.root / "staging").iterdir():
            pid = folder.name.partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def translated(place: Path) -> Iterator[None]:
    """Turn the file system's refusals into a `StoreError` that says what to do."""
    try:
        yield
    except PermissionError as error:
        raise StoreError(
            f"no permission to write {error.filename or place}",
            hint="give yourself write permission there, or name another folder with --workdir",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise out_of_space(place) from error
        raise StoreError(
            f"cannot write {error.filename or place}: {error.strerror or error}",
            hint="name another folder with --workdir",
        ) from error


def _move(folder: Path, entry: Path) -> None:
    try:
        folder.rename(entry)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        logger.info("store entry %s was made by another build meanwhile", entry.name[:12])


def _latest(recipe: str, step: str) -> str:
    return f"latest/{recipe}/{step.replace('/', '.')}"


def _sync(folder: Path) -> None:
    """Flush the files of a folder to disk before it is renamed into place."""
    for path in [*(p for p in folder.rglob("*") if p.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
