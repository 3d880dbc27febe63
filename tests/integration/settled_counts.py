"""What a Triton has counted: it counts behind its answers, on a busy machine by a moment."""

import time
from collections.abc import Callable
from typing import TypeVar

Counts = TypeVar("Counts")

_QUIET_S, _POLL_S = 0.1, 0.02


def settled(read: Callable[[], Counts]) -> Counts:
    """Read counts until they have stood still; nothing may be asked of the server meanwhile."""
    found, since, deadline = read(), time.monotonic(), time.monotonic() + 60
    while time.monotonic() - since < _QUIET_S:
        time.sleep(_POLL_S)
        if (again := read()) != found:
            found, since = again, time.monotonic()
        assert time.monotonic() < deadline, f"somebody else asks it: {found}"
    return found
