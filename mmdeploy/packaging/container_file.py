"""The image of a release: a Containerfile on Triton's release image, and the files that it copies.

An image of one release and no other: the digest of its manifest is in it, and every file is held against it when the
image is built and each time that it starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from mmdeploy.packaging.containers import Container
from mmdeploy.packaging.server_options import GRPC_PORT, HTTP_PORT, METRICS_PORT
from mmdeploy.packaging.subject import Subject

#: Folder of everything of ours in the image.
HOME = "/opt/mmdeploy"
#: The user that Triton's images hold for this (deploy.md, "Run as a Non-Root User").
USER_ID = 1000
START = ("python3", "-I", f"{HOME}/start.py")
READY = ("python3", "-I", f"{HOME}/probe.py")
ALIVE = (*READY, "--alive")
#: How long a server may take to load its models, in seconds.
STARTUP_S = 600
_DIGEST_VARIABLE = "MMDEPLOY_MANIFEST_SHA256"


@dataclass(frozen=True)
class Instruction:
    """A line of a Containerfile: its word, and what follows as words or as the exec form."""

    word: str
    rest: str | tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.word} {json.dumps(list(self.rest)) if isinstance(self.rest, tuple) else self.rest}"


def container_file(subject: Subject, container: Container, digest: str | None = None) -> bytes:
    """Return the Containerfile.

    Args:
        subject: The release.
        container: The image that it is based on.
        digest: Digest of that image, ``sha256:…``; the tag alone where it is not known.
    """
    lines = [f"# {subject.name}, release {subject.tag}, on {container.image} (Triton {container.triton})."]
    if digest is None:
        lines.append("# The base is named by its tag, which can be moved: name its digest with --digest sha256:…")
    return "\n".join([*lines, *map(str, _instructions(subject, container, digest)), ""]).encode()


def _instructions(subject: Subject, container: Container, digest: str | None) -> Iterator[Instruction]:
    base = container.image + (f"@{digest}" if digest else "")
    yield Instruction("FROM", base)
    yield Instruction("USER", "root")
    if subject.requirements:
        yield Instruction("COPY", f"requirements.txt {HOME}/requirements.txt")
        install = "python3 -m pip install --no-cache-dir --break-system-packages"
        yield Instruction("RUN", f"{install} --requirement {HOME}/requirements.txt")
    yield Instruction("COPY", f"start.py probe.py tritonserver.args {HOME}/")
    yield Instruction("COPY", f"release/ {HOME}/release/")
    yield Instruction("ENV", f"{_DIGEST_VARIABLE}={subject.manifest_sha256} PYTHONDONTWRITEBYTECODE=1 HOME=/tmp")
    for key, value in _labels(subject, base).items():
        yield Instruction("LABEL", f"{key}={json.dumps(value)}")
    yield Instruction("RUN", (*START, "--check"))
    yield Instruction("USER", f"{USER_ID}:{USER_ID}")
    yield Instruction("EXPOSE", f"{HTTP_PORT} {GRPC_PORT} {METRICS_PORT}")
    yield Instruction("STOPSIGNAL", "SIGTERM")
    timing = f"--interval=10s --timeout=6s --start-period={STARTUP_S}s --retries=3"
    yield Instruction("HEALTHCHECK", f"{timing} CMD {json.dumps([*READY])}")
    yield Instruction("CMD", START)


def _labels(subject: Subject, base: str) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": subject.name,
        "org.opencontainers.image.version": subject.tag,
        "org.opencontainers.image.base.name": base,
        "mmdeploy.manifest.sha256": subject.manifest_sha256,
    }


def image_files(subject: Subject, options: list[str]) -> dict[str, bytes]:
    """Return what the Containerfile copies beside the release, by name."""
    programs = files("mmdeploy.packaging.image")
    found = {name: programs.joinpath(name).read_bytes() for name in ("start.py", "probe.py")}
    found["tritonserver.args"] = ("\n".join(options) + "\n").encode()
    if subject.requirements:
        found["requirements.txt"] = ("\n".join(subject.requirements) + "\n").encode()
    return found
