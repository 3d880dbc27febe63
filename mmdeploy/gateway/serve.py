"""Runs a gateway under uvicorn: connections that dawdle are closed, and what is being answered is finished."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmdeploy.core.errors import EnvironmentUnfitError, MmdeployError
from mmdeploy.gateway.app import application
from mmdeploy.gateway.service import Gateway

logger = logging.getLogger(__name__)

_HEADERS_WITHIN_S = 5.0
_MOST_HEADER_BYTES = 32 * 2**10
_WATCH_EVERY_S = 0.5


@dataclass(frozen=True)
class Address:
    """Where a gateway listens.

    Attributes:
        host: Its address.
        port: 0 for a free one.
        grace_s: How long requests in flight may take when it stops.
        drain_s: How long it says that it is not ready before it stops taking requests.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    grace_s: float = 30.0
    drain_s: float = 0.0


class Punctual(H11Protocol):
    """Closes a connection whose request line and headers take longer than they may."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Take what came; headers that are not whole yet are waited for as before."""
        super().data_received(data)
        if self._is_between_requests():
            if self._due is None and data:
                self._await_headers()
        elif self._due is not None:
            self._due.cancel()
            self._due = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        return self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete)

    def _await_headers(self) -> None:
        self._due = self.loop.call_later(_HEADERS_WITHIN_S, self._close_if_late)

    def _close_if_late(self) -> None:
        self._due = None
        if self._is_between_requests() and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """A server whose signals are ours: it ends by itself and is not killed by its own signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """Take a port.

    Raises:
        EnvironmentUnfitError: If it is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named: else each answer waits 40 ms for an ACK
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise EnvironmentUnfitError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint="choose another port, or 0 for a free one",
        ) from error
    return bound


def run(gateway: Gateway, bound: socket.socket, address: Address, *, watch: Callable[[], None] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the signal.

    Args:
        gateway: What is served.
        bound: The socket to listen on.
        address: How long things may take at the end.
        watch: Called in a thread twice a second; what it raises ends the gateway.
    """
    return asyncio.run(_run(gateway, bound, address, watch))


async def _run(gateway: Gateway, bound: socket.socket, address: Address, watch: Callable[[], None] | None) -> int:
    config = uvicorn.Config(
        application(gateway),
        http=Punctual,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(address.grace_s)),
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
    )
    server, loop = _Server(config), asyncio.get_running_loop()
    received: list[int] = []
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if received:
            server.force_exit = True
        received.append(number)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    watching = asyncio.create_task(_keep_watching(watch, stopping))
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    gateway.draining = True
    if address.drain_s and received and not serving.done():
        await asyncio.sleep(address.drain_s)
    server.should_exit = True
    await serving
    stopping.set()
    waiting.cancel()
    await watching
    return received[0] if received else 0


async def _keep_watching(watch: Callable[[], None] | None, stopping: asyncio.Event) -> None:
    """Look after the server below; raise what ended it."""
    while watch is not None and not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCH_EVERY_S):
                await stopping.wait()
        if stopping.is_set():
            return
        try:
            await asyncio.to_thread(watch)
        except MmdeployError:
            stopping.set()
            raise
