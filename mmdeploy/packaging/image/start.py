"""Starts Triton on the release that its image was made of, and on no other; a script, standard library only.

Every file of the release is held against its manifest, and the manifest against the digest that the image was built
with; what differs ends it. Triton's control endpoints want a key: that of ``--key-file`` where there is one, else a
random one that nobody learns, so they stay shut.

Usage: ``python3 -I start.py [--check] [--release DIR] [--options FILE] [--key-file FILE] [--server PROGRAM] …``;
``--check`` only compares. Further options go to Triton.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
#: Stands for the key among the options.
SECRET = "@SECRET@"
#: Digest of the manifest that the image was built with; a variable of the image.
DIGEST_VARIABLE = "MMDEPLOY_MANIFEST_SHA256"
MANIFEST = "manifest.json"
#: Not in the manifest: they are made after it.
_BESIDE = {MANIFEST, "model.sig"}
_LEAST_KEY = 16


def main(argv: list[str]) -> None:
    """Compare, then become Triton."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--release", type=Path, default=HERE / "release")
    parser.add_argument("--options", type=Path, default=HERE / "tritonserver.args")
    parser.add_argument("--key-file", type=Path, default=Path("/run/secrets/mmdeploy/key"))
    parser.add_argument("--server", default="tritonserver")
    given, further = parser.parse_known_args(argv)
    if wrong := differences(given.release, os.environ.get(DIGEST_VARIABLE)):
        _end(f"{given.release} is not the release that this image was made of: " + "; ".join(wrong))
    if given.check:
        return
    options = [line for line in given.options.read_text(encoding="utf-8").splitlines() if line]
    command = [given.server, *(option.replace(SECRET, _key(given.key_file)) for option in options), *further]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        _end(f"{command[0]} cannot be started: {error.strerror}")


def differences(release: Path, digest: str | None) -> list[str]:
    """Say what in a release is not as its manifest, and its manifest not of this digest; nothing where all is."""
    try:
        content = (release / MANIFEST).read_bytes()
        expected = json.loads(content)["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST} cannot be read ({error})"]
    if digest and hashlib.sha256(content).hexdigest() != digest:
        return [f"{MANIFEST} is another one"]
    wrong, seen = [], set()
    for path in sorted(release.rglob("*")):
        name = path.relative_to(release).as_posix()
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind) or name in _BESIDE:
            continue
        seen.add(name)
        if not stat.S_ISREG(kind):
            wrong.append(f"{name} is no ordinary file")
        elif name not in expected:
            wrong.append(f"{name} is not in {MANIFEST}")
        elif _sha256(path) != expected[name]:
            wrong.append(f"{name} was changed")
    return wrong + [f"{name} is missing" for name in sorted(set(expected) - seen)]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _key(file: Path) -> str:
    if not file.exists():
        return secrets.token_urlsafe(32)
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        _end(f"the control key in {file} cannot be read: {error}")
    if len(key) < _LEAST_KEY or not key.isprintable() or any(mark in key for mark in " ,:"):
        _end(f"{file} holds no control key: at least {_LEAST_KEY} letters and digits, as of openssl rand -hex 32")
    return key


def _end(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(3)


if __name__ == "__main__":
    main(sys.argv[1:])
