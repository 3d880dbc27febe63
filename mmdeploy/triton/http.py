"""HTTP as Triton speaks it, through the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.triton.server_log import without_traceback


def ask_json(
    url: str,
    *,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    timeout_s: float = 60.0,
) -> Any:
    """Ask an endpoint that answers in JSON or not at all: POST when there is a body, else GET.

    Raises:
        InferenceError: If the server answers with an error.
        ServerError: If the server does not answer.
    """
    with contextlib.closing(Endpoint(url, timeout_s)) as endpoint:
        text, _ = endpoint.ask(None if body is None else json.dumps(body).encode(), headers)
    return json.loads(text) if text else None


class Endpoint:
    """One URL of a server, asked over a connection that is kept."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Take the URL; the first request connects."""
        parts = urllib.parse.urlsplit(url)
        self._url, self._path = url, parts.path
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)

    def ask(self, body: bytes | None, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        """Send a request, GET without a body and POST with one; return the answer's body and headers.

        Raises:
            InferenceError: If the server answers with an error.
            ServerError: If the server does not answer.
        """
        try:
            self._connection.request("GET" if body is None else "POST", self._path, body, dict(headers))
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _no_answer(self._url, error) from error
        if response.status != 200:
            raise _refused(self._url, text, response.status)
        return text, dict(response.headers)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()


def _no_answer(url: str, error: Exception) -> ServerError:
    if isinstance(error, OSError):
        return ServerError(f"{url}: the server does not answer ({error.strerror or error})")
    # its words may be the bytes of another protocol: not for a terminal
    what = f"the server does not answer in HTTP ({type(error).__name__}); is it the gRPC port?"
    return ServerError(f"{url}: {what}")


def _refused(url: str, text: bytes, status: int) -> InferenceError:
    try:
        told = json.loads(text)["error"]  # a gateway's is an object
        reason = str(told["message"] if isinstance(told, dict) else told)
    except (ValueError, KeyError, TypeError):
        reason = text.decode(errors="replace") or "no reason given"
    return InferenceError(f"{url}: {without_traceback(reason)} (HTTP {status})")
