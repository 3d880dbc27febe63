"""Keeps strangers from controlling a server: its control endpoints want a random header.

Triton asks nobody who they are. Where models may be loaded while it runs, whoever reaches its port, such as a web
page in a browser on the same machine, loads Python of their own into it; through the trace and log settings they
have it write files. So these endpoints want a header with a secret, made anew for each server and kept in memory
only: it is handed to the supervisor through a pipe, and wiped from the server's command line as soon as the server
has read that (`mmdeploy.triton.supervisor`). What is left: for the tenth of a second before that, and on systems
that do not let a process write to its child's memory, other users of this machine can read it with ``ps``; and
whoever runs as the same user can always read the memory of its processes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from mmdeploy.triton.supervisor import SECRET

HEADER = "mmdeploy-control-key"
#: What Triton expects in front of the header's name over gRPC.
_GRPC_PREFIX = "triton-grpc-protocol-"
_RESTRICTED = "model-repository,shared-memory,trace,logging"


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


def restricting_options() -> list[str]:
    """Return tritonserver's options, a placeholder in place of the secret."""
    value = f"{_RESTRICTED}:{HEADER}={SECRET}"
    return [f"--http-restricted-api={value}", f"--grpc-restricted-protocol={value}"]
