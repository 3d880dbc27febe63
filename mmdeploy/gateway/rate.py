"""How many requests each caller may send: a token bucket a caller."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

#: Callers that are remembered; who was not heard of for longest is forgotten first, and begins with a full bucket.
_MOST = 10_000


class RateLimit:
    """Buckets that hold ``burst`` tokens and gain ``per_s`` a second; a request takes one."""

    def __init__(self, per_s: float | None, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets.

        Args:
            per_s: None for no limit.
            burst: What a bucket holds.
            clock: Gives seconds.
        """
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, caller: str) -> float:
        """Take a token of a caller's; return 0 where there was one, else the seconds until there is."""
        if self._per_s is None:
            return 0.0
        now = self._clock()
        tokens, since = self._buckets.pop(caller, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + max(0.0, now - since) * self._per_s)
        allowed = tokens >= 1
        self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._per_s


def whole_seconds(wait_s: float) -> int:
    """Return seconds for ``Retry-After``, which knows whole ones: at least 1."""
    return max(1, math.ceil(wait_s))
