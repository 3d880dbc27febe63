"""The content-addressed artifact store: a step that was done once is never done again.

Layout under the root::

    entries/<key>/artifact.json    the Artifact
    entries/<key>/identity.json    what the key was made of, label by label
    entries/<key>/seal.json        SHA-256 of every other file of the entry
    entries/<key>/…                the files that the step wrote
    latest/<recipe>/<step>.json    identity of the step's latest run, to say *why* a step must run
    locks/<key>.lock               held while a process makes the entry
    scratch/<key>/                 checkpoints and journals of a step that is not done yet; survives when it is killed
    staging/<pid>-<random>/        being written; renamed into entries/ when whole

An entry appears by one rename, so it is whole or not there. It is verified against its seal whenever it is
read; a damaged one is moved away and made again. Two builds that want the same entry at once share the work:
the second waits for the first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.errors import StoreError

logger = logging.getLogger(__name__)

_SEAL = "seal.json"
_ARTIFACT = "artifact.json"
_IDENTITY = "identity.json"


class Store:
    """The artifact store under one folder; safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        """Open the store, making it where it is not there yet.

        Raises:
            StoreError: If the folder cannot be made or written.
        """
        self.root = root.absolute()
        with translated(self.root):
            for name in ("entries", "latest", "locks", "scratch", "staging"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            if not os.access(self.root / "staging", os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.root))
            self.sweep()

    def get(self, key: str) -> Artifact | None:
        """Return the verified artifact of a key; None when there is none, or when it was damaged."""
        entry = self.entry(key)
        if not entry.is_dir():
            return None
        problem = _damage(entry)
        if problem is None:
            return Artifact.from_json((entry / _ARTIFACT).read_text(), entry)
        logger.warning("store entry %s is damaged (%s): moved away, it will be made again", key[:12], problem)
        with translated(self.root):
            entry.rename(self.root / "staging" / f"{os.getpid()}-damaged-{secrets.token_hex(4)}")
        return None

    def has(self, key: str) -> bool:
        """Say whether there is an entry, without verifying it."""
        return self.entry(key).is_dir()

    def entry(self, key: str) -> Path:
        """Return where the entry of a key lies, or would: nothing is verified."""
        return self.root / "entries" / key

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

    def add(self, key: str, artifact: Artifact, identity: Mapping[str, str]) -> Artifact:
        """Seal the artifact's folder and move it into the store under ``key``.

        Args:
            key: From the plan.
            artifact: Its path lies directly in a folder that `staging` gave.
            identity: What the key was made of.

        Returns:
            The artifact at its place in the store.
        """
        folder, entry = artifact.path.parent, self.entry(key)
        with translated(self.root):
            (folder / _ARTIFACT).write_text(artifact.to_json())
            (folder / _IDENTITY).write_text(json.dumps(dict(identity), indent=1))
            (folder / _SEAL).write_text(json.dumps(_digests(folder), indent=1))
            _sync(folder)
            try:
                folder.rename(entry)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                logger.info("store entry %s was made by another build meanwhile", key[:12])
        shutil.rmtree(self.root / "scratch" / key, ignore_errors=True)
        return Artifact.from_json((entry / _ARTIFACT).read_text(), entry)

    def latest_identity(self, recipe: str, step: str) -> dict[str, str] | None:
        """Return the identity that a step had when it last ran or was reused, or None."""
        try:
            identity = json.loads(self._latest(recipe, step).read_text())
        except (OSError, ValueError):
            return None
        return identity if isinstance(identity, dict) else None

    def remember(self, recipe: str, step: str, identity: Mapping[str, str]) -> None:
        """Record the identity of a step that has just run or was reused."""
        path = self._latest(recipe, step)
        with translated(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            staged.write_text(json.dumps(dict(identity), indent=1))
            staged.replace(path)

    def _latest(self, recipe: str, step: str) -> Path:
        return self.root / "latest" / recipe / f"{step.replace('/', '.')}.json"

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
            raise StoreError(
                f"no space left under {place}; nothing was half-written",
                hint="free some space, or name a folder on another disk with --workdir",
            ) from error
        raise StoreError(
            f"cannot write {error.filename or place}: {error.strerror or error}",
            hint="name another folder with --workdir",
        ) from error


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL)
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


def _damage(entry: Path) -> str | None:
    try:
        sealed = json.loads((entry / _SEAL).read_text())
        found = _digests(entry)
    except (OSError, ValueError) as error:
        return str(error)
    wrong = sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
    return f"differs from its seal: {', '.join(wrong)}" if wrong else None


def _sync(folder: Path) -> None:
    """Flush the files of a folder to disk before it is renamed into place."""
    for path in [*(p for p in folder.rglob("*") if p.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
