"""What ``mmdeploy serve`` serves a release from: links to its models, in a folder in which others can appear.

Triton's repositories are fixed when it starts, and nothing may be written into a release. So a release is laid out in a
folder of the server's own: its ensemble, whose ``config.pbtxt`` a promotion replaces, is copied, all else is linked. A
note beside it says which server serves from there; ``mmdeploy promote`` finds it by the address.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from mmdeploy.core.artifact import file_sha256
from mmdeploy.triton.staging import MANIFEST, read_manifest, translated

NOTE = "server.json"
#: In the ensemble's folder: which release it serves.
RECORD = ".mmdeploy.json"
#: Names of this machine.
LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def lay_out(release: Path, folder: Path) -> Path:
    """Lay a release out in a folder; return the folder.

    One that is laid out already stays: what was promoted since is what a server that is started again serves.

    Raises:
        StoreError: If it cannot be written there; nothing is left then.
    """
    ensemble = str(read_manifest(release)["name"])
    if (folder / ensemble / "config.pbtxt").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with translated(f"cannot lay {release} out in {folder}"):
            _fill(folder, release, ensemble)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half of it would be taken for a whole one
        raise
    return folder


def _fill(folder: Path, release: Path, ensemble: str) -> None:
    folder.mkdir(parents=True)
    for child in sorted(release.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            if child.name == ensemble:
                _copy(child, folder / ensemble)
            else:
                (folder / child.name).symlink_to(child.resolve(), target_is_directory=True)
    if (folder / ensemble).is_dir():
        record = {"release": release.resolve().name, "manifest_sha256": file_sha256(release / MANIFEST)}
        (folder / ensemble / RECORD).write_text(json.dumps(record), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    """Copy a folder; unlike copytree, whose error names no reason, it ends with the file system's own."""
    for path in (source, *sorted(source.rglob("*"))):
        there = target / path.relative_to(source)
        if path.is_dir():
            there.mkdir()
        else:
            shutil.copy2(path, there)


def write_note(folder: Path, http_url: str, repositories: Mapping[str, Path]) -> None:
    """Write down which server serves from a folder, and from where each ensemble."""
    fields = {"http_url": http_url, "repositories": {name: str(path.absolute()) for name, path in repositories.items()}}
    (folder / NOTE).write_text(json.dumps(fields), encoding="utf-8")


def folder_of(root: Path, http_url: str, ensemble: str) -> Path | None:
    """Return the folder that the server at an address serves an ensemble from; None where a root has no note of it."""
    for note in sorted(root.glob(f"*/{NOTE}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            fields = json.loads(note.read_text(encoding="utf-8"))
            if _address(fields["http_url"]) == _address(http_url):
                folders: dict[str, str] = fields["repositories"]
                return Path(folders[ensemble]) if ensemble in folders else None
    return None


def _address(url: str) -> tuple[str, int | None]:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    return ("localhost" if host in LOCAL else host), parts.port
