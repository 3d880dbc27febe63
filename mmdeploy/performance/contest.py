"""Two servers asked in turns by the same load: which is better, and does it keep a stated limit.

A window is a second or two of load on one of them; windows alternate, and which goes first does too. What is compared
is each pair of neighbouring windows, so that a machine that is slower for a while is slower for both. Intervals are
those of the gates: they are as wide as a server may wander in the time that was watched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmdeploy.performance.generator import Load, Loop
from mmdeploy.performance.prepared import Prepared
from mmdeploy.performance.target import Target
from mmdeploy.scoring.wander import half_width

#: Share of a window that is not counted: what is in flight from before, and connections that are new.
_RAMP = 0.2
#: Share of the requests that were due that must be answered in a window.
KEEPS_UP = 0.95
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Goal:
    """What is asked of settings.

    Attributes:
        p95_ms: Limit of the 95th percentile of latencies.
        throughput_per_s: Requests a second that come at random; 0: as many as ``clients`` that wait for answers send.
        clients: Of a closed loop.
    """

    p95_ms: float
    throughput_per_s: float = 0.0
    clients: int = 8

    def loop(self, seed: int) -> Loop:
        """Return the load, its random times by a seed."""
        if self.throughput_per_s:
            return Loop(rate_per_s=self.throughput_per_s, seed=seed)
        return Loop(concurrency=self.clients)


@dataclass(frozen=True)
class Window:
    """What one stretch of load came to."""

    at: float
    p95_ms: float
    throughput_per_s: float


@dataclass(frozen=True)
class Served:
    """A server under comparison: what is asked of it, and what was measured."""

    target: Target
    requests: Sequence[Prepared]

    def window(self, loop: Loop, seconds: float) -> Window:
        """Put the load on it for a while."""
        import numpy as np

        with Load(self.target, self.requests, loop) as load:
            time.sleep(seconds)
            end = time.perf_counter()
            load.end()
        begin = load.started + _RAMP * seconds
        records = [one for one in load.records() if begin <= one.due < end]
        # What failed, or was answered after the end of the window, was no answer in time.
        waits = [math.inf if one.failed else (one.done - one.due) * 1e3 for one in records]
        answered = sum(not one.failed and one.done <= end for one in records)
        p95_ms = float(np.sort(waits)[min(math.ceil(0.95 * len(waits)) - 1, len(waits) - 1)]) if waits else math.inf
        return Window(begin, p95_ms, answered / (end - begin))


@dataclass(frozen=True)
class Side:
    """What one of two servers came to.

    Attributes:
        p95_ms: Geometric mean of the windows' percentiles, and its interval.
        throughput_per_s: Mean of the windows.
        verdict: Whether it keeps the goal.
    """

    p95_ms: tuple[float, float, float]
    throughput_per_s: float
    verdict: Literal["met", "missed", "undecided"]


@dataclass(frozen=True)
class Outcome:
    """What two servers came to.

    Attributes:
        first: The one that is there.
        second: The one that may take its place.
        gain: By how much the second is better in what counts (above 1), and its interval.
    """

    first: Side
    second: Side
    gain: tuple[float, float, float]


def contest(first: Served, second: Served, goal: Goal, *, rounds: int, seconds: float, seed: int) -> Outcome:
    """Ask two servers in turns.

    Args:
        first: The settings that are there.
        second: The settings that may take their place.
        goal: The load, and the limit.
        rounds: Windows of each.
        seconds: Length of a window.
        seed: Of the random times: another one for a measurement that is to be independent.
    """
    sides: tuple[list[Window], list[Window]] = ([], [])
    both = (first, second)
    for one in both:
        one.window(goal.loop(seed - 1), seconds / 2)  # warm, and its connections tried
    for number in range(rounds):
        loop = goal.loop(seed + number)
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            sides[which].append(both[which].window(loop, seconds))
    ours, theirs = (_side(windows, goal) for windows in sides)
    faster = [_log(a.p95_ms / b.p95_ms) for a, b in zip(*sides, strict=True)]
    more = [_log(b.throughput_per_s / max(a.throughput_per_s, 1e-9)) for a, b in zip(*sides, strict=True)]
    latency_counts = bool(goal.throughput_per_s) or ours.p95_ms[0] > goal.p95_ms
    gain = _interval(faster if latency_counts else more, [window.at for window in sides[1]])
    return Outcome(ours, theirs, gain)


def _side(windows: Sequence[Window], goal: Goal) -> Side:
    p95 = _interval([_log(window.p95_ms) for window in windows], [window.at for window in windows])
    throughput = sum(window.throughput_per_s for window in windows) / len(windows)
    if throughput < KEEPS_UP * goal.throughput_per_s or p95[1] > goal.p95_ms:
        return Side(p95, throughput, "missed")
    return Side(p95, throughput, "met" if p95[2] <= goal.p95_ms else "undecided")


def _interval(logarithms: Sequence[float], times: Sequence[float]) -> tuple[float, float, float]:
    import numpy as np

    values = np.array(logarithms, np.float64)
    mean, half = float(values.mean()), half_width(values, np.array(times, np.float64), confidence=CONFIDENCE)
    return _exp(mean), _exp(mean - half), _exp(mean + half)


def _log(value: float) -> float:
    """Take the logarithm of a ratio or a latency; what has no end counts as a thousand seconds."""
    return math.log(min(max(value, 1e-6), 1e6)) if not math.isnan(value) else 0.0


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
