"""The folder that a Triton serves from: where a promotion puts models, and takes them away.

Everything that a promotion needs besides lies where Triton does not look for models: a lock beside them, an ordinary
file; what is being written in a hidden folder of the ensemble's own, from where it is moved by one rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmdeploy.core.artifact import Array, file_sha256
from mmdeploy.core.errors import StoreError, UsageError
from mmdeploy.rollout.generation import CONFIG, Generation, Part, asked_models
from mmdeploy.triton.config import SyntaxProblem, try_parse
from mmdeploy.triton.known_samples import SAMPLES, save_samples
from mmdeploy.triton.repository import RELEASES, is_model
from mmdeploy.triton.staging import copy_file, translated
from mmdeploy.triton.swap_folder import RECORD

_STAGING = ".staging"
_MARGIN_BYTES = 2**20


class PromotionUnderWayError(UsageError):
    """Another promotion of the ensemble holds the folder."""


@dataclass(frozen=True)
class ServerFolder:
    """A model repository of a server, as far as one ensemble is concerned.

    Attributes:
        path: The repository, as this machine sees it.
        ensemble: Name of the ensemble.
    """

    path: Path
    ensemble: str

    @property
    def front(self) -> Path:
        """Folder of the ensemble."""
        return self.path / self.ensemble

    @contextlib.contextmanager
    def locked(self, *, wait_s: float = 3.0) -> Iterator[None]:
        """Keep other promotions of the ensemble away.

        Args:
            wait_s: How long to wait for them; ``mmdeploy serve`` holds the lock while it probes its models.

        Raises:
            UsageError: If the folder is none, or another promotion is under way.
            StoreError: If the folder cannot be written.
        """
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is not a folder; expected the repository that the server serves")
        self._require_own()
        lock = FileLock(self.path / f".{self.ensemble}.promotion.lock")
        with translated(f"cannot promote into {self.path}"):
            try:
                lock.acquire(timeout=wait_s)
            except Timeout as error:
                raise PromotionUnderWayError(
                    f"another promotion of {self.ensemble} in {self.path} is under way, or its server is being mended",
                    hint="wait for that to end; nothing was changed",
                ) from error
        try:
            yield
        finally:
            lock.release()

    def record(self) -> dict[str, Any]:
        """Return what is known of the release that was promoted last; nothing where none was."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.front / RECORD).read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        return {}

    def leaving(self) -> frozenset[str]:
        """Return the models that served the release before."""
        return frozenset(self.record().get("leaving", ()))

    def write_record(self, release_id: str, manifest_sha256: str, leaving: Iterable[str] = ()) -> None:
        """Write down which release serves, and which models served the one before."""
        fields = {"release": release_id, "manifest_sha256": manifest_sha256, "leaving": sorted(leaving)}
        self._replace(self.front / RECORD, json.dumps(fields))

    def place(self, part: Part, release: Path, sample: Mapping[str, Array]) -> bool:
        """Write a model where it is not there yet; return whether it was written.

        Raises:
            StoreError: If it cannot be written, or a file is not what the release's manifest says.
        """
        target = self.path / part.name
        if self._is_intact(part):
            return False
        with translated(f"cannot write {target}; what serves still serves"), self._staging() as staging:
            self._require_room(part, release)
            written = staging / part.name
            for name in part.folders:
                (written / name).mkdir(parents=True)
            for name, file in part.files.items():
                (written / name).parent.mkdir(parents=True, exist_ok=True)
                copy_file(release / file.source, written / name)
                if file_sha256(written / name) != file.sha256:
                    raise StoreError(f"{release / file.source} is not what was published", hint="build it again")
            if sample:
                save_samples(written / SAMPLES, {part.name: sample})
            (written / CONFIG).write_text(part.config, encoding="utf-8")
            if os.path.lexists(target):  # damaged, or half of it left by a file system that lost something
                target.rename(staging / f"{part.name}.damaged")
            written.rename(target)
        return True

    def remove(self, name: str) -> None:
        """Remove a model; one that is not there is fine."""
        target = self.path / name
        if target.is_symlink():
            target.unlink()
        elif target.is_dir():
            with self._staging() as staging:
                target.rename(staging / name)

    def models(self) -> frozenset[str]:
        """Return the names of the models that lie in the folder."""
        return frozenset(child.name for child in self.path.iterdir() if child.is_dir() and is_model(child))

    def front_config(self) -> str | None:
        """Return the text of the ensemble's config.pbtxt; None where there is none."""
        with contextlib.suppress(FileNotFoundError):
            return (self.front / CONFIG).read_text(encoding="utf-8")
        return None

    def asked(self) -> frozenset[str]:
        """Return the models that the ensemble asks for by what lies in the folder: the server may not know it yet."""
        from google.protobuf.json_format import MessageToDict

        found: set[str] = set()
        waiting = [self.ensemble]
        while waiting:
            with contextlib.suppress(OSError):
                config = try_parse((self.path / waiting.pop() / CONFIG).read_text(encoding="utf-8"))
                if not isinstance(config, SyntaxProblem):
                    asked = asked_models(MessageToDict(config, preserving_proto_field_name=True))
                    new = [name for name in asked if name not in found]
                    found.update(new)
                    waiting += new
        return frozenset(found)

    def point(self, generation: Generation, sample: Mapping[str, Array], leaving: Iterable[str]) -> None:
        """Make the ensemble one of a generation's parts, by one rename; the server notices when it loads it again.

        Args:
            generation: The release.
            sample: One sample of the ensemble's inputs.
            leaving: Models that serve the release before. They are written down first: were the promotion killed
                later on, nothing else would tell that what the server was started with serves no more.
        """
        front = generation.front
        with translated(f"cannot write {self.front / CONFIG}; what serves still serves"):
            for name in front.folders:
                (self.front / name).mkdir(parents=True, exist_ok=True)
            for name, file in front.files.items():
                target = self.front / name
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(generation.release / file.source, target)
            self._replace(self.front / RECORD, json.dumps(self.record() | {"leaving": sorted(leaving)}))
            self._replace(self.front / CONFIG, front.config)
            if sample:
                save_samples(self.front / SAMPLES, {self.ensemble: sample})

    def point_back(self, config: str | None) -> None:
        """Put an earlier config.pbtxt back; without one the ensemble is removed."""
        if config is None:
            shutil.rmtree(self.front, ignore_errors=True)
        else:
            self._replace(self.front / CONFIG, config)

    def forget_versions(self, kept: frozenset[str]) -> None:
        """Remove the ensemble's version folders of other releases."""
        for child in [*self.front.iterdir()]:
            if child.name.isdecimal() and child.name not in kept:
                shutil.rmtree(child)

    def sweep(self) -> None:
        """Remove what a promotion that was killed left half-written."""
        shutil.rmtree(self.front / _STAGING, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not (self.front / CONFIG).exists():
                self.front.rmdir()

    def _require_own(self) -> None:
        """Do nothing where a front may be put: the ensemble's own folder, and no link to somewhere else.

        Raises:
            UsageError: If the ensemble's folder is a link: what would be changed may be a release.
        """
        real = self.path.resolve()
        if self.front.is_symlink() or real.parent.parent.name == RELEASES:
            raise UsageError(
                f"{self.front} is a link, or a published release: a promotion would change it",
                hint="serve it by mmdeploy serve, which makes a folder of its own, or serve a copy",
            )

    def _is_intact(self, part: Part) -> bool:
        target = self.path / part.name
        with contextlib.suppress(OSError):
            return (target / CONFIG).read_text(encoding="utf-8") == part.config and all(
                file_sha256(target / name) == file.sha256 for name, file in part.files.items()
            )
        return False

    def _require_room(self, part: Part, release: Path) -> None:
        needed = sum((release / file.source).stat().st_size for file in part.files.values()) + _MARGIN_BYTES
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise StoreError(
                f"{self.path} has {free / 2**20:.3g} MiB free, {part.name} needs {needed / 2**20:.3g}; "
                "what serves still serves",
                hint="free some space on that disk",
            )

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        folder = self.front / _STAGING / secrets.token_hex(4)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody else's is in it
                folder.parent.rmdir()

    @staticmethod
    def _replace(target: Path, text: str) -> None:
        """Replace a file by one rename; it is always newer than before, whatever the clock says."""
        written = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with written.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileNotFoundError):
                before, now = target.stat().st_mtime_ns, written.stat().st_mtime_ns
                if now <= before:
                    os.utime(written, ns=(before + 1_000_000, before + 1_000_000))
            written.replace(target)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
