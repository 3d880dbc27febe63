"""Keeps strangers from controlling a server: its control endpoints want a random header.

Triton asks nobody who they are. Where models may be loaded while it runs, whoever reaches its port, such as a web
page in a browser on the same machine, loads Python of their own into it; through the trace and log settings they
have it write files. So these endpoints want a header with a secret, made anew for each server and kept in memory
only: it is handed to the supervisor through a pipe, and wiped from the server's command line as soon as the server
has read that (`mmdeploy.triton.supervisor`). What is left: for the tenth of a second before that, and on systems
that do not let a process write to its child's memory, other users of this machine can read it with ``ps``; and
whoever runs as the same user can always read the memory of its processes.

Another process that is to control the server, such as ``mmdeploy promote``, has to know the secret: then it lies in a
file that only its owner can read, or in the environment variable `ENVIRONMENT`, and is not made anew.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from mmdeploy.core.errors import UsageError
from mmdeploy.triton.staging import translated
from mmdeploy.triton.supervisor import SECRET

HEADER = "mmdeploy-control-key"
#: What Triton expects in front of the header's name over gRPC.
_GRPC_PREFIX = "triton-grpc-protocol-"
_RESTRICTED = "model-repository,shared-memory,trace,logging"
#: Holds the secret where no file does.
ENVIRONMENT = "MMDEPLOY_CONTROL_KEY"
_SECRET = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")
_ACCEPTED = "accepted: 16 to 256 letters, digits and . _ ~ + / = -, such as openssl rand -hex 32 gives"


@dataclass(frozen=True)
class ControlKey:
    """The secret of one server; its representation does not show it."""

    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def http_headers(self) -> dict[str, str]:
        """What opens the endpoints over HTTP."""
        return {HEADER: self.secret}

    @property
    def grpc_metadata(self) -> tuple[tuple[str, str], ...]:
        """What opens the endpoints over gRPC."""
        return ((f"{_GRPC_PREFIX}{HEADER}", self.secret),)


def known_key(file: Path | None) -> ControlKey | None:
    """Return the key that a file holds, or else the environment; None where neither is there.

    Raises:
        UsageError: If the file cannot be read, or others can read it, or what it holds is no key.
    """
    if file is not None:
        return _read(file)
    text = os.environ.get(ENVIRONMENT)
    return None if text is None else _key(text, f"the environment variable {ENVIRONMENT}")


def kept_key(file: Path | None) -> ControlKey:
    """Return the key that a server is to be started with: the known one, else a new one, which the file then holds.

    Raises:
        UsageError: As `known_key`.
        StoreError: If the file cannot be written.
    """
    if file is None or file.exists():
        return known_key(file) or ControlKey()
    key = ControlKey()
    with translated(f"the control key cannot be kept in {file}"):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(f"{key.secret}\n")
    return key


def _read(file: Path) -> ControlKey:
    try:
        with file.open(encoding="utf-8") as stream:
            mode = os.fstat(stream.fileno()).st_mode & 0o077
            text = stream.read(4096)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"{file}: the control key cannot be read: {reason}", hint=_ACCEPTED) from error
    if mode:
        raise UsageError(
            f"{file}: other users can use the control key that lies there", hint=f"chmod 600 {file}, and a new key"
        )
    return _key(text, str(file))


def _key(text: str, where: str) -> ControlKey:
    if not _SECRET.fullmatch(text.strip()):
        raise UsageError(f"{where} holds no control key", hint=_ACCEPTED)
    return ControlKey(text.strip())


def restricting_options() -> list[str]:
    """Return tritonserver's options, a placeholder in place of the secret."""
    value = f"{_RESTRICTED}:{HEADER}={SECRET}"
    return [f"--http-restricted-api={value}", f"--grpc-restricted-protocol={value}"]
