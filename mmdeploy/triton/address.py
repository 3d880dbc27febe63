"""The address of a server that runs already: how it is written, and what to do where none answers there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from mmdeploy.core.errors import InferenceError, ServerError, UsageError
from mmdeploy.triton.http import ask_json

START = "start one with mmdeploy serve, and give the gRPC or HTTP address that it prints"


@dataclass(frozen=True)
class Address:
    """Where a server listens, as somebody has written it.

    Attributes:
        scheme: ``http``, ``grpc``, or nothing, which is gRPC too.
        host: Name or number of the machine.
        port: Of the protocol.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parsed(cls, url: str) -> Address:
        """Read ``host:port`` or ``grpc://host:port`` for gRPC, ``http://host:port`` for HTTP.

        Raises:
            UsageError: If it is none of these.
        """
        scheme, _, address = url.rstrip("/").rpartition("://")
        host, _, port = address.rpartition(":")
        if scheme not in ("", "grpc", "http") or not host or not port.isdigit():
            raise UsageError(
                f"{url!r} is not the address of a server",
                hint="accepted: host:port or grpc://host:port for gRPC, http://host:port for HTTP",
            )
        return cls(scheme, host, int(port))

    @property
    def is_http(self) -> bool:
        """Whether the port is HTTP's."""
        return self.scheme == "http"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def version_at(http_url: str, address: Address, *, timeout_s: float) -> str:
    """Return the version of the server that answers at an HTTP endpoint.

    Args:
        http_url: The endpoint.
        address: What was asked for, from which the endpoint may have been guessed.
        timeout_s: For it to answer.

    Raises:
        ServerError: If nothing answers there, or no Triton.
    """
    try:
        return _version(http_url, timeout_s)
    except ServerError as error:
        error.hint = error.hint or START
        if not address.is_http:
            with contextlib.suppress(ServerError, InferenceError):
                _version(f"http://{address}", timeout_s)
                error.hint = f"is {address.port} the HTTP port? say http://{address}"
        raise


def _version(http_url: str, timeout_s: float) -> str:
    try:
        return str(ask_json(f"{http_url}/v2", timeout_s=timeout_s)["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{http_url}: what answers there speaks HTTP, but no KServe") from error
