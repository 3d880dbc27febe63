"""Reads a request's body: of bounded size, in bounded time, before anything is made of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mmdeploy.gateway.problems import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fastapi import Request

    from mmdeploy.gateway.service import Held
    from mmdeploy.gateway.settings import Settings

#: How long, and how much, is still taken of a body that is too large: a client that is cut off reads no answer.
_LINGER_S = 2.0
_LINGER_BYTES = 64 * 2**20


async def read_body(request: Request, settings: Settings, held: Held) -> bytes:
    """Return a request's body.

    Args:
        request: The request.
        settings: With the limits.
        held: What it takes of the memory for bodies.

    Raises:
        Refused: If it is too large, too slow, or there is no room for it now.
    """
    stream, declared = request.stream(), request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared) > settings.max_body_bytes:
        raise await _too_large(stream, settings, expects="expect" in request.headers)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in stream:
                if len(body) + len(chunk) > settings.max_body_bytes:
                    raise await _too_large(stream, settings, expects=False)
                held.add(len(chunk))
                body += chunk
    except TimeoutError as error:
        took = f"{settings.body_timeout_s:g} s"
        raise Refused("timeout", f"the body did not arrive within {took}: {len(body)} bytes did") from error
    return bytes(body)


async def _too_large(stream: AsyncGenerator[bytes, None], settings: Settings, *, expects: bool) -> Refused:
    """Take what is still coming for a while, so that the client sees the answer; one that asks first sends nothing."""
    taken = 0
    refused = Refused("too_large", f"the body has more than the {settings.max_body_bytes} bytes that are taken")
    if expects:
        return refused
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            async for chunk in stream:
                taken += len(chunk)
                if taken > _LINGER_BYTES:
                    break
    return refused
