"""Publish a staged model repository atomically, go back to an earlier release, find what to serve.

A published ensemble is ``<root>/<name>``, a relative symlink to ``<root>/.releases/<name>/<release id>``. A
release is written under a staging name, synced and renamed, and only then does the symlink move, by one
`os.replace`: whoever reads sees the old release or the new one, never half of each. Old releases stay, so
any of them can be made live again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import StoreError, UsageError, did_you_mean
from mmdeploy.core.side_by_side import under_way
from mmdeploy.triton.staging import (
    MANIFEST,
    StagedRepository,
    changed,
    check_name,
    copy_file,
    read_manifest,
    remove_compiled,
    stage,
    translated,
    verify,
    write_manifest,
)

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = [
    "Release",
    "StagedRepository",
    "activate",
    "in_use",
    "is_model",
    "is_repository",
    "live_folder",
    "publish",
    "releases",
    "remove",
    "require_intact",
    "resolve",
    "stage",
    "verify",
]

logger = logging.getLogger(__name__)

RELEASES = ".releases"
_STAGING = ".staging-"
CHANGED_HINT = (
    "build it again, or make another release live; to serve what was changed on purpose, serve a copy elsewhere, "
    f"without its {MANIFEST}"
)
#: Where builds publish when they are not told otherwise.
DESTINATION = Path("model_repository")
_BUILD_HINT = "build a recipe first: mmdeploy build RECIPE"


@dataclass(frozen=True)
class Release:
    """A published release.

    Attributes:
        release_id: Its id.
        path: Its folder.
        live: Whether ``<root>/<name>`` points to it.
    """

    release_id: str
    path: Path
    live: bool


def publish(
    staged: Path,
    destination_root: Path,
    name: str,
    *,
    release_id: str,
    extra_files: Mapping[str, Path] | Callable[[], Mapping[str, Path]],
    sign: Callable[[Path], None] | None = None,
    facts: FileFacts | None = None,
) -> Path:
    """Copy a staged repository to ``<destination_root>/.releases/<name>/<release_id>`` and make it live.

    Whatever goes wrong, an interrupt included, the release that was live stays live and complete.
    Publishing the same content under the same id again only makes it live again.

    Args:
        staged: Folder that `stage` wrote.
        destination_root: Root of the published repositories, such as ``model_repository``.
        name: Name to publish under.
        release_id: Id of the release, unique below ``name``.
        extra_files: Files to keep with the release, such as the report, by their name in it; or what writes and returns
            them, which is called while the others are copied.
        sign: Signs the folder of a release that is complete, before it is live.
        facts: Where the digests of the release's files are noted, for `live_folder` to know them.

    Returns:
        The live path, ``<destination_root>/<name>``.

    Raises:
        StoreError: If the staged repository is damaged, the id is taken by other content, the disk is full or
            the folder may not be written.
    """
    check_name(name, "published")
    check_name(release_id, "release")
    if damage := verify(staged, contents=False):  # each file's content is compared with the manifest as it is copied
        raise _damaged(staged, damage)
    live = destination_root / name
    with translated(f"cannot publish {name} in {destination_root}; what was live is still live"):
        folder = destination_root / RELEASES / name
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _check_replaceable(live, folder)
            for leftover in folder.glob(f"{_STAGING}*"):
                shutil.rmtree(leftover)
            release = folder / release_id
            with _removed_on_failure(folder / f"{_STAGING}{release_id}") as staging:
                beside = extra_files if callable(extra_files) else lambda: extra_files
                _copy_release(staged, staging, beside, facts or FileFacts())
                if release.exists():
                    _check_same(staging, release)
                    shutil.rmtree(staging)
                    _point(live, release)
                    return live
                if sign is not None:
                    sign(staging)
                    _sync(staging)
                staging.rename(release)
            if facts is not None:
                facts.moved(staging, release)
            try:
                _sync(folder)
                _point(live, release)
            except BaseException:
                if live.resolve() != release.resolve():  # else it is live already, whatever came after
                    shutil.rmtree(release, ignore_errors=True)
                raise
    logger.info("published %s release %s", name, release_id)
    return live


def live_folder(root: Path, name: str) -> Path | None:
    """Return the folder of the release that is live under a name; None where none is, or what is there is not ours."""
    try:
        _check_replaceable(root / name, root / RELEASES / name)
    except StoreError:
        return None
    return (root / name).resolve() if (root / name / MANIFEST).is_file() else None


def activate(root: Path, name: str, release_id: str) -> Path:
    """Make an earlier release live again and return the live path.

    Raises:
        UsageError: If there is no such release.
        StoreError: If the release is damaged or the symlink cannot be moved.
    """
    known = [release.release_id for release in releases(root, name)]
    if release_id not in known:
        raise UsageError(f"{root / name} has no release {release_id!r}: {did_you_mean(release_id, known)}")
    folder = root / RELEASES / name
    what = f"cannot make release {release_id} of {name} live; what was live is still live"
    with translated(what), _locked(folder):
        if damage := verify(folder / release_id):
            raise StoreError(f"release {release_id} of {name} is damaged: {'; '.join(damage)}")
        _check_replaceable(root / name, folder)
        _point(root / name, folder / release_id)
    return root / name


def remove(root: Path, name: str, release_id: str) -> bool:
    """Remove a release that is not live; return False, and leave it, where a server holds it (see `in_use`).

    Raises:
        StoreError: If it is live, or cannot be removed.
    """
    folder = root / RELEASES / name
    release = folder / release_id
    with translated(f"cannot remove release {release_id} of {name}"), _locked(folder):
        if (root / name).resolve() == release.resolve():
            raise StoreError(f"release {release_id} of {name} is live: it is kept")
        with (release / MANIFEST).open("rb") as manifest:
            try:
                fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            gone = folder / f"{_STAGING}{release_id}"  # swept by the next publish, should this be killed
            release.rename(gone)
        shutil.rmtree(gone)
    return True


@contextlib.contextmanager
def in_use(repositories: Iterable[Path]) -> Iterator[None]:
    """Hold releases while a server may read their files again: `remove` leaves them."""
    with contextlib.ExitStack() as stack:
        for path in repositories:
            if (path / MANIFEST).is_file():
                manifest = stack.enter_context((path / MANIFEST).open("rb"))
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(manifest, fcntl.LOCK_SH)
        yield


def releases(root: Path, name: str) -> tuple[Release, ...]:
    """List the releases of a published name, oldest first."""
    folder = root / RELEASES / name
    live = (root / name).resolve()
    found = [path for path in _folders(folder) if (path / MANIFEST).is_file()] if folder.is_dir() else []
    found.sort(key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, path.name))
    return tuple(Release(path.name, path, live == path.resolve()) for path in found)


def not_there_hint(path: Path) -> str:
    """Say what to do where nothing is published at a path: its name may be that of an ensemble."""
    published = DESTINATION / path.name
    if path != published and published.is_dir():
        return f"did you mean {published}?"
    return _BUILD_HINT


def resolve(path: Path) -> list[Path]:
    """Say which model repositories to hand to Triton for ``path``.

    That is ``path`` itself if it is a repository (a folder of models), else every repository in it: one for
    each published ensemble. Symlinks are followed once, here, so that a publish while Triton is loading
    cannot mix two releases.

    Raises:
        UsageError: If there is no repository at ``path``.
    """
    if not path.is_dir():
        found = "not a folder" if path.exists() else "not there"
        raise UsageError(f"{path} is {found}; expected a Triton model repository", hint=not_there_hint(path))
    if is_model(path) and not is_repository(path):
        raise UsageError(
            f"{path} is one model; expected a folder of models",
            hint=f"did you mean {path.absolute().parent}?",
        )
    if is_repository(path):
        return [path.resolve()]
    repositories = [child for child in _folders(path) if is_repository(child)]
    if not repositories:
        raise UsageError(
            f"{path} holds no Triton model: no folder in it has a config.pbtxt or a version folder",
            hint=_BUILD_HINT,
        )
    return [child.resolve() for child in repositories]


def require_intact(repositories: Iterable[Path], *, sweep: bool = False) -> None:
    """Do nothing where every repository with a manifest, and every release, is what was published.

    Args:
        repositories: To look at.
        sweep: Remove first what Python compiled of their files: a server that was killed leaves it behind, and it must
            not run in place of its source.

    Raises:
        StoreError: Naming what differs.
    """
    for path in repositories:
        if sweep:
            remove_compiled(path)
        released = path.resolve().parts[-3:-2] == (RELEASES,)
        if (released or (path / MANIFEST).is_file()) and (damage := verify(path)):
            shown = "".join(f"\n  {problem}" for problem in damage)
            raise StoreError(f"{path} is not what was published:{shown}", hint=CHANGED_HINT)


def is_repository(path: Path) -> bool:
    """Say whether a folder holds models."""
    return any(is_model(child) for child in _folders(path))


def is_model(path: Path) -> bool:
    """Say whether a folder is a model: it has a config.pbtxt, or version folders that are no models."""
    if (path / "config.pbtxt").is_file():
        return True
    return any(
        child.name.isdecimal() and not (child / "config.pbtxt").is_file() and not any(_folders(child))
        for child in _folders(path)
    )


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _copy_release(staged: Path, staging: Path, extra_files: Callable[[], Mapping[str, Path]], facts: FileFacts) -> None:
    manifest = read_manifest(staged)
    for name in manifest["empty_folders"]:
        (staging / name).mkdir(parents=True, exist_ok=True)
    names = [*manifest["files"]]
    for folder in {(staging / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    with under_way(lambda name: _copied(staged / name, staging / name, facts), names) as copied:
        beside = _checked(extra_files(), manifest["files"])
        known = dict(zip((staging / name for name in names), copied(), strict=True))
    for name, source in beside.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        known[staging / name] = _copied(source, staging / name, facts)
    digests = write_manifest(staging, manifest["name"], known)
    if damage := [changed(name) for name, sha in manifest["files"].items() if digests[name] != sha]:
        raise _damaged(staged, damage)
    for path in (staging / MANIFEST, *(path for path in staging.rglob("*") if path.is_dir()), staging):
        _sync(path)


def _copied(source: Path, target: Path, facts: FileFacts) -> str:
    """Copy a file, have it on the disk, and return the SHA-256 of the copy."""
    copy_file(source, target)
    _sync(target)
    return facts.sha256(target)


def _checked(extra_files: Mapping[str, Path], taken: Container[str]) -> Mapping[str, Path]:
    for name in extra_files:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or name in taken or name == MANIFEST:
            raise StoreError(f"{name!r} cannot be kept with the release: it is taken, or leads outside of it")
    return extra_files


def _damaged(staged: Path, damage: Iterable[str]) -> StoreError:
    return StoreError(f"{staged} is not what was staged: {'; '.join(damage)}", hint="build it again")


def _check_same(staging: Path, release: Path) -> None:
    if verify(release) or read_manifest(release) != read_manifest(staging):
        raise StoreError(
            f"release {release.name} exists already with other content, or is damaged: {release}",
            hint="publish under another release id, or remove that folder",
        )


def _check_replaceable(live: Path, folder: Path) -> None:
    """Refuse to replace what is no link to a release of this name, whether it leads anywhere or not."""
    if live.is_symlink():
        target = Path(os.path.normpath(live.parent.absolute() / live.readlink()))
        ours = target.parent.name == folder.name and target.parent.parent.name == RELEASES
    else:
        ours = not live.exists()
    if not ours:
        raise StoreError(
            f"{live} is not a symlink that mmdeploy made, so it is left alone",
            hint="move it away or publish elsewhere",
        )


def _point(live: Path, release: Path) -> None:
    link = live.with_name(f".{live.name}.{secrets.token_hex(4)}")
    try:
        link.symlink_to(os.path.relpath(release, live.parent), target_is_directory=True)
        link.replace(live)
    except BaseException:
        link.unlink(missing_ok=True)
        raise
    _sync(live.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> FileLock:
    from filelock import FileLock  # with asyncio, which who only looks at what is published does not need

    return FileLock(folder / ".lock")


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[Path]:
    try:
        if not folder.exists():
            folder.mkdir()
        yield folder
    except BaseException:  # an interrupt must leave nothing behind either
        shutil.rmtree(folder, ignore_errors=True)
        raise
