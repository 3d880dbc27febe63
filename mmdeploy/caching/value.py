"""What keeping a content is worth: how often it is asked for, of late, times what computing it again costs.

Each request adds 1, which halves with every half-life that has passed since: a frequency with decay, in which what was
asked for lately counts most.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from mmdeploy.caching.replay import AskedModel
from mmdeploy.caching.trace import Request

#: Part of a trace's time after which a request counts half, where nothing else is said.
HALF_LIFE_SHARE = 0.25


@dataclass(frozen=True)
class Worth:
    """A content of a model's requests.

    Attributes:
        request: The latest one with it.
        asked: How often it was asked for.
        last_s: When it was asked for last.
        value_ms: Milliseconds of computing that keeping it saves for each half-life, as things stand at the end.
        bytes: What its answer takes in the cache.
    """

    request: Request
    asked: int
    last_s: float
    value_ms: float
    bytes: int


def half_life(requests: Sequence[Request]) -> float:
    """Return the half-life for a trace: a quarter of its time."""
    return max((requests[-1].time_s - requests[0].time_s) * HALF_LIFE_SHARE, 1e-9)


def worths(model: AskedModel, requests: Sequence[Request], half_life_s: float) -> list[Worth]:
    """Return what each content that a model was asked for is worth at the end of a trace, the most per byte first."""
    end = requests[-1].time_s
    weights, counts, latest = dict[Hashable, float](), dict[Hashable, int](), dict[Hashable, Request]()
    for request in requests:
        key = model.key(request)
        if key is None:
            continue
        weights[key] = weights.get(key, 0.0) + 0.5 ** ((end - request.time_s) / half_life_s)
        counts[key] = counts.get(key, 0) + 1
        latest[key] = request
    found = [
        Worth(
            request=request,
            asked=counts[key],
            last_s=request.time_s,
            value_ms=weights[key] * model.compute_ms * request.rows,
            bytes=model.entry(request.rows),
        )
        for key, request in latest.items()
    ]
    return sorted(found, key=lambda one: -one.value_ms / one.bytes)


def bytes_for(share: float, found: Iterable[Worth]) -> int:
    """Return the bytes of the most valuable contents that make so much of the whole value together."""
    kept = list(found)
    wanted, value, size = share * sum(one.value_ms for one in kept), 0.0, 0
    for one in kept:
        if value >= wanted:
            break
        value, size = value + one.value_ms, size + one.bytes
    return size
