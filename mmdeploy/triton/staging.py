"""Stage a served ensemble as a Triton model repository, and check later that it is still what was staged."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import MmdeployError, StoreError, UsageError
from mmdeploy.core.side_by_side import side_by_side
from mmdeploy.triton.config import (
    WARMUP_FOLDER,
    ServedComponent,
    ServedEnsemble,
    component_config,
    ensemble_config,
    label_filename,
    step_config,
    to_text,
    warmup_filename,
    warmup_sample,
)
from mmdeploy.triton.guard import guards_of, write_guards
from mmdeploy.triton.known_samples import write_samples
from mmdeploy.triton.recurrent_state import written
from mmdeploy.triton.served_step import REQUIREMENTS, ServedStep

MANIFEST = "manifest.json"
#: Of a signed release, over all its other files: see `mmdeploy.triton.signing`. It cannot be in the manifest, too.
SIGNATURE = "model.sig"
_COMPILED = "__pycache__"
#: Kept in an ensemble's version folder: git, object stores and zip files drop empty folders, and Triton wants it.
KEEPER = "README.txt"
_KEEPER_TEXT = (
    "An ensemble has no model file. This one keeps the folder, which Triton wants, where empty ones get lost.\n"
)
_CANNOT = "cannot stage the model repository in {}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DISK_HINTS = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "your quota on that disk is used up",
    errno.EACCES: "give this user the right to write there, or choose another folder",
    errno.EROFS: "that file system is read-only: choose another folder",
}


@dataclass(frozen=True)
class StagedRepository:
    """A model repository with its manifest; with `copies` it is laid out, and `complete` makes it whole.

    Attributes:
        path: What Triton is given as ``--model-repository``.
        name: Name of the ensemble's model.
        models: Names of all models, the ensemble last.
        files: SHA-256 of every file by its path below `path`.
        copies: Files that are not there yet: what each is a copy of.
    """

    path: Path
    name: str
    models: tuple[str, ...]
    files: Mapping[str, str]
    copies: Mapping[Path, Path] = field(default_factory=dict)


def stage(folder: Path, ensemble: ServedEnsemble, facts: FileFacts | None = None) -> StagedRepository:
    """Write the ensemble's model repository into an empty folder; equal input gives equal bytes.

    Model files are copied and never hard-linked: onnx refuses external data with several links, and who edits one file
    must not change another. The manifest has of a copy the digest that its source has, so that what is not a true copy
    of it is refused where it would be published.

    Args:
        folder: Where to.
        ensemble: What is served.
        facts: Digests of the ensemble's files that are known already; without them each is read.

    Raises:
        StoreError: If the folder is not empty or cannot be written.
    """
    return complete(lay_out(folder, ensemble, facts))


def complete(laid_out: StagedRepository) -> StagedRepository:
    """Copy what `lay_out` left to be copied, and write the manifest.

    Raises:
        StoreError: If the folder cannot be written.
    """
    folder, copies = laid_out.path, laid_out.copies
    with translated(_CANNOT.format(folder)):
        side_by_side(lambda target: copy_file(copies[target], target), copies)
        write_manifest(folder, laid_out.name, {folder / name: digest for name, digest in laid_out.files.items()})
    return replace(laid_out, copies={})


def lay_out(folder: Path, ensemble: ServedEnsemble, facts: FileFacts | None = None) -> StagedRepository:
    """Write of a model repository what is made for it, and find out what the whole of it will be.

    Most of its bytes are files of the ensemble's artifacts: they are read only where their digests are not known, and
    copied by `complete`. The arguments are those of `stage`.

    Raises:
        StoreError: If the folder is not empty or cannot be written.
    """
    whole = (*ensemble.branches, ensemble)
    names = [part.name for part in (*ensemble.parts, *whole)]
    for name in names:
        check_name(name, "model")
    if len(set(names)) != len(names):
        raise UsageError(f"two models of ensemble {ensemble.name!r} have one name: {', '.join(sorted(names))}")
    with translated(_CANNOT.format(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreError(f"{folder} is not empty", hint="stage into a new folder")
        copies = dict(_written(folder, ensemble))
        if requires := sorted({line for step in ensemble.steps for line in step.requires}):
            (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requires), encoding="utf-8")
        for one in whole:
            version = folder / one.name / str(one.version)
            version.mkdir(parents=True)
            (version / KEEPER).write_text(_KEEPER_TEXT, encoding="utf-8")
            (folder / one.name / "config.pbtxt").write_text(to_text(ensemble_config(one)), encoding="utf-8")
        write_samples(folder, ensemble)
        sources = (facts or FileFacts()).sha256_of(copies.values())
        made = _digests(_files(folder).values())
        digests = {**made, **{target: sources[source] for target, source in copies.items()}}
        files = {path.relative_to(folder).as_posix(): digest for path, digest in sorted(digests.items())}
    return StagedRepository(folder, ensemble.name, tuple(names), files, copies)


def verify(path: Path, *, contents: bool = True, facts: FileFacts | None = None) -> tuple[str, ...]:
    """Compare a staged repository or a release with its manifest; return what differs, nothing if intact.

    Files and folders that are not in the manifest differ too, for Triton would load them: another version, a model.
    Symbolic links differ wherever they lead. What Python compiled differs too, for it may run in place of its source.

    Args:
        path: Its folder.
        contents: Whether files are read; whoever reads them next compares them, and says so by `changed`.
        facts: Digests of files that were read before and are as they were; without them all are read.
    """
    sha256 = file_sha256 if facts is None else facts.sha256
    try:
        manifest = read_manifest(path)
    except MmdeployError as error:
        return (error.message,)
    files, folders = manifest["files"], _folders_of(manifest)
    problems, seen = [], {MANIFEST}
    for name, entry in _entries(path, folders):
        seen.add(name)
        if entry.is_symlink():
            problems.append(f"{name} is a symbolic link")
        elif entry.is_dir():
            if name not in folders:
                problems.append(f"{name}/ is not in {MANIFEST}{_why_compiled(entry)}")
        elif name not in files and name not in (MANIFEST, SIGNATURE):
            problems.append(f"{name} is not in {MANIFEST}")
        elif not entry.is_file():
            problems.append(f"{name} is no ordinary file")
        elif contents and name not in (MANIFEST, SIGNATURE) and sha256(entry) != files[name]:
            problems.append(changed(name))
    problems += [f"{name} is missing" for name in sorted(files.keys() - seen)]
    return tuple(problems + [f"{name}/ is missing" for name in manifest["empty_folders"] if name not in seen])


def changed(name: str) -> str:
    """Say of a file of a repository that it is not what the manifest says."""
    return f"{name} was changed: its SHA-256 is not the one in {MANIFEST}"


def _folders_of(manifest: Mapping[str, Any]) -> set[str]:
    """Return the folders that the files and empty folders of a manifest make, by path."""
    parents = (parent for name in manifest["files"] for parent in PurePosixPath(name).parents)
    empty = (place for name in manifest["empty_folders"] for place in (name, *PurePosixPath(name).parents))
    return {str(place) for place in (*parents, *empty)} - {"."}


def _entries(root: Path, folders: Collection[str], below: str = "") -> Iterator[tuple[str, Path]]:
    """Give what lies in a folder and in those below it that are expected, by path; links are not followed."""
    for entry in sorted((root / below).iterdir()):
        name = f"{below}{entry.name}"
        yield name, entry
        if name in folders and entry.is_dir() and not entry.is_symlink():
            yield from _entries(root, folders, f"{name}/")


def _why_compiled(folder: Path) -> str:
    return ": what Python compiled runs in place of its source; remove it" if folder.name == _COMPILED else ""


def remove_compiled(path: Path) -> None:
    """Remove what a server's Python compiled of the files of a staged repository or release, and nothing else."""
    if not (path / MANIFEST).is_file():
        return
    with contextlib.suppress(OSError, MmdeployError):
        sources = {PurePosixPath(name) for name in read_manifest(path)["files"] if name.endswith(".py")}
        for parent in {source.parent for source in sources}:
            cache = path / parent / _COMPILED
            for entry in [] if cache.is_symlink() or not cache.is_dir() else cache.iterdir():
                if entry.suffix == ".pyc" and parent / f"{entry.name.partition('.')[0]}.py" in sources:
                    entry.unlink()
            cache.rmdir()  # refused where anything else is in it


def _written(folder: Path, ensemble: ServedEnsemble) -> Iterator[tuple[Path, Path]]:
    """Write the folders of components and steps; give each file that is to be copied there, with its source."""
    clients = {spec.name for spec in ensemble.inputs}
    parts = (
        *(_write_component(folder / component.name, component, clients) for component in ensemble.components),
        *(_write_step(folder / step.name, step) for step in ensemble.steps),
    )
    return itertools.chain.from_iterable(parts)


def _write_component(folder: Path, component: ServedComponent, clients: Collection[str]) -> Iterator[tuple[Path, Path]]:
    """Write a component's folder; give what is to be copied there, with its source, the large ones first."""
    source, *beside = component.artifact.files
    version = folder / str(component.version)
    version.mkdir(parents=True)
    for file in beside:  # keep their names: the main file, or the backend, looks for them by those
        yield version / file.name, file
    if component.kept is not None:
        (version / component.filename).write_bytes(written(source, component.name))
    elif component.serving.guard == "graph":
        _write_guarded(source, version / component.filename, component, clients)
    else:
        yield version / component.filename, source
    (folder / "config.pbtxt").write_text(to_text(component_config(component)), encoding="utf-8")
    arrays = warmup_sample(component)
    if arrays:
        (folder / WARMUP_FOLDER).mkdir()
    for index, spec in enumerate(component.artifact.inputs):
        if spec.name in arrays:
            (folder / WARMUP_FOLDER / warmup_filename(index, spec.name)).write_bytes(arrays[spec.name].tobytes())
    yield from _labels(folder, component.labels)


def _labels(folder: Path, labels: Mapping[str, Path]) -> Iterator[tuple[Path, Path]]:
    return ((folder / label_filename(output), path) for output, path in sorted(labels.items()))


def _write_step(folder: Path, step: ServedStep) -> Iterator[tuple[Path, Path]]:
    version = folder / str(step.version)
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(to_text(step_config(step)), encoding="utf-8")
    yield from _labels(folder, step.labels)
    for name, path in step.files():
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        yield version / name, path


def _write_guarded(source: Path, target: Path, component: ServedComponent, clients: Collection[str]) -> None:
    """Write a graph with checks of what clients send; external data stays in its files."""
    import onnx

    sent = {key: tensor for key, tensor in component.inputs.items() if tensor in clients}
    ranges = {key: tuple(rule["range"]) for key, rule in component.input_rules.items() if "range" in rule}
    model = onnx.load(source, load_external_data=False)
    write_guards(model, guards_of(component.artifact.inputs, sent, ranges))
    with target.open("xb") as writer:
        writer.write(model.SerializeToString(deterministic=True))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes into a new file; a file system that can shares the blocks (reflink)."""
    with source.open("rb") as reader, target.open("xb") as writer:
        left = os.fstat(reader.fileno()).st_size
        try:
            while left and (copied := os.copy_file_range(reader.fileno(), writer.fileno(), left)):
                left -= copied
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                raise
    if left:
        shutil.copyfile(source, target)


def _files(folder: Path) -> dict[str, Path]:
    ours = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path for path in ours if path != folder / MANIFEST}


def _digests(paths: Iterable[Path]) -> dict[Path, str]:
    paths = list(paths)
    return dict(zip(paths, side_by_side(file_sha256, paths), strict=True))


def write_manifest(folder: Path, name: str, known: Mapping[Path, str] | None = None) -> dict[str, str]:
    """Record every file below ``folder`` in its manifest.json; return the SHA-256 by relative path.

    Args:
        folder: The repository's.
        name: Of its ensemble.
        known: Digests that need not be taken, by the file's path.
    """
    found, known = _files(folder), known or {}
    digests = {**known, **_digests(path for path in found.values() if path not in known)}
    files = {key: digests[path] for key, path in found.items()}
    empty = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())
    )
    fields = {"schema_version": 1, "name": name, "files": files, "empty_folders": empty}
    (folder / MANIFEST).write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return files


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return ``name``, ``files`` and ``empty_folders`` of a manifest.

    Raises:
        StoreError: If there is none, or it cannot be understood.
    """
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["schema_version"] != 1 or not isinstance(fields["files"], dict):
            raise StoreError(
                f"{path}: schema version {fields['schema_version']!r}, and this mmdeploy reads version 1",
                hint="install the multimodal-deploy that published it, or build it again",
            )
        return {
            "name": fields["name"],
            "files": fields["files"],
            "empty_folders": list(fields["empty_folders"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that begins with ``what``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"{what}: {reason} ({error.filename or 'no file named'})", hint=_DISK_HINTS.get(error.errno or 0)
        ) from error


def check_name(name: str, kind: str) -> None:
    """Refuse a name that is unsafe as a folder's name.

    Raises:
        UsageError: Naming ``kind``, such as ``model``.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a {kind} name: letters, digits, '.', '_' and '-', not starting with '.'")
