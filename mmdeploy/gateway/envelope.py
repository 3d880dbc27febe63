"""What every request goes through: an id, who may ask from where, headers that browsers heed, a log line, counters.

An ASGI application around another. What it refuses, and what breaks below it, is told in the gateway's own JSON.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from mmdeploy.gateway import logs
from mmdeploy.gateway.problems import REFUSED, Refused
from mmdeploy.gateway.rate import whole_seconds

if TYPE_CHECKING:
    from mmdeploy.gateway.service import Gateway

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

_READING = ("GET", "HEAD", "OPTIONS")
#: Pages elsewhere never reach these, whatever CORS allows.
_CONTROL = ("/rollout/",)
_LOADING = ("/models/", "/load")
_CLIENT_LEFT = 499
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass
class Told:
    """What is known of a request while it is answered.

    Attributes:
        request_id: The client's, or made here.
        trace_id: Of the trace that it belongs to.
        endpoint: Path of the route, its parameters by name; ``other`` where there is none.
        model: Whom it asks; empty where that is nobody that is served.
        key: Name of the key that it came with.
        refused: Why it was refused, for the metrics.
        fields: What else its log line says.
    """

    request_id: str
    trace_id: str | None
    endpoint: str = "other"
    model: str = ""
    key: str | None = None
    refused: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def error_response(refused: Refused, told: Told) -> JSONResponse:
    """Answer that a request is refused: the one form that errors have."""
    told.refused = REFUSED.get(refused.code)
    if refused.status >= 500:
        told.fields["error"] = refused.message
    error = {"code": refused.code, "message": refused.message, "request_id": told.request_id}
    if refused.hint:
        error["hint"] = refused.hint
    headers = {}
    if refused.retry_after_s is not None:
        headers["Retry-After"] = str(whole_seconds(refused.retry_after_s))
    if refused.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="mmdeploy"'
    return JSONResponse({"error": error}, refused.status, headers)


class Envelope:
    """The application around the gateway's routes."""

    def __init__(self, app: Application, gateway: Gateway) -> None:
        """Wrap an application."""
        settings = gateway.settings
        self._gateway, self._app, self._open = gateway, app, 0
        self._shared: Application = app
        if settings.allowed_origins:
            self._shared = CORSMiddleware(
                app,
                allow_origins=list(settings.allowed_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id", "traceparent"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request; what is no HTTP is not for us."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        told = Told(logs.request_id(headers.get("x-request-id")), logs.trace_id(headers.get("traceparent")))
        scope.setdefault("state", {})["told"] = told
        started, answered = time.perf_counter(), _Answered(send, told)
        self._open += 1
        try:
            await self._answer(scope, headers, receive, answered)
        except ClientDisconnect:
            answered.status = answered.status or _CLIENT_LEFT
        except Exception:
            logger.exception("a bug in the gateway", extra={logs.FIELDS: {"request_id": told.request_id}})
            if answered.status:
                raise
            wrong = error_response(Refused("internal", "a bug in the gateway: its log says more"), told)
            await wrong(scope, receive, answered)
        finally:
            self._open -= 1
            self._note(scope, told, answered.status or _CLIENT_LEFT, time.perf_counter() - started)

    async def _answer(
        self, scope: MutableMapping[str, Any], headers: Headers, receive: Receive, send: _Answered
    ) -> None:
        control = _is_control(scope["path"])
        refused = self._refusal(scope["method"], headers, control=control)
        if refused is not None:
            await error_response(refused, send.told)(scope, receive, send)
            return
        await (self._app if control else self._shared)(scope, receive, send)

    def _refusal(self, method: str, headers: Headers, *, control: bool) -> Refused | None:
        settings, host = self._gateway.settings, headers.get("host", "")
        if self._open > settings.max_connections:
            return Refused("busy", f"{settings.max_connections} requests are open already", retry_after_s=1)
        if settings.allowed_hosts is not None and not _names(host, settings.allowed_hosts):
            return Refused(
                "forbidden", "the request calls this machine by a name that is not its own", hint="see --allow-host"
            )
        origin = headers.get("origin")
        if origin is None or method in _READING:
            return None
        if urlsplit(origin).netloc.lower() == host.lower() or (origin in settings.allowed_origins and not control):
            return None
        return Refused("forbidden", "a page of another origin may not ask this", hint="see --allow-origin")

    def _note(self, scope: MutableMapping[str, Any], told: Told, status: int, seconds: float) -> None:
        metrics = self._gateway.metrics
        if told.endpoint != "/metrics":
            metrics.requests.labels(told.model, told.endpoint, str(status)).inc()
            if told.refused:
                metrics.refused.labels(told.model, told.refused).inc()
        if told.model and told.endpoint in ("/infer", "/batch"):
            metrics.seconds.labels(told.model).observe(seconds)
        said = {
            "request_id": told.request_id,
            "trace_id": told.trace_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "model": told.model or None,
            "key": told.key,
            "client": (scope.get("client") or [None])[0],
            **told.fields,
        }
        level = logging.DEBUG if told.endpoint in ("/health", "/ready", "/metrics") and status < 400 else logging.INFO
        logger.log(
            level, "request", extra={logs.FIELDS: {key: value for key, value in said.items() if value is not None}}
        )


class _Answered:
    """Sends on, with the headers that every answer has, and keeps the status."""

    def __init__(self, send: Send, told: Told) -> None:
        self._send, self.told, self.status = send, told, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.told.request_id
            for name, value in _SAFE_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _is_control(path: str) -> bool:
    start, end = _LOADING
    return path.startswith(_CONTROL) or (path.startswith(start) and path.endswith(end))


def _names(host: str, allowed: tuple[str, ...]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in allowed or (_is_loopback(name) and any(map(_is_loopback, allowed)))


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
