"""Watches a load until it is steady: windows of equal length, until the last ones agree.

As perf_analyzer does, a load is stable when the throughput and the mean latency of each of the last three windows are
within a share (10 %) of their mean; these windows together are the measurement. The throughput of an open loop is what
was answered of what was due. One that does not become stable in its
time is reported as *unstable*, with its last windows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.performance.counters import Counters, between, counted
from mmdeploy.performance.generator import Load, Loop, Record
from mmdeploy.performance.point import Generator, Point
from mmdeploy.performance.prepared import InChunks, Prepared
from mmdeploy.performance.target import Target

if TYPE_CHECKING:
    from mmdeploy.scoring.metrics import FloatArray

#: Share of what was due in the last windows that must have been sent by the end; else the server is far behind.
_SENT = 0.9


@dataclass(frozen=True)
class Limits:
    """When a load has been watched enough.

    Attributes:
        window_s: Length of a window.
        agreeing: Windows that must agree.
        stability: Share of their mean that they may be away from it.
        max_seconds: Longest time of one load.
        max_requests: Most requests of one load.
    """

    window_s: float = 1.0
    agreeing: int = 3
    stability: float = 0.1
    max_seconds: float = 20.0
    max_requests: int = 200_000


@dataclass(frozen=True)
class _Mark:
    """The end of a window, and what was counted until then."""

    at: float
    counters: Counters
    cpu_s: float


def measure(
    target: Target,
    requests: Sequence[Prepared | InChunks],
    loop: Loop,
    limits: Limits,
    *,
    progress: Callable[[Loop, int], None] = lambda loop, windows: None,
) -> Point:
    """Put one load on a server and watch it.

    Args:
        target: What is asked.
        requests: What it is asked, in turns.
        loop: How requests come.
        limits: When to stop.
        progress: Called at the end of each window, with the number of windows.

    Returns:
        What was measured; where Ctrl-C ended it, what there was until then, marked as interrupted.

    Raises:
        ServerError: If the server no longer tells its statistics.
    """
    interrupted, before, cpu = False, counted(target.statistics()), time.process_time()
    with Load(target, requests, loop, most_requests=limits.max_requests) as load:
        marks = [_Mark(load.started, before, cpu)]
        try:
            while not _enough(load, marks, limits):
                time.sleep(max(0.0, min(marks[-1].at + limits.window_s, _end(load, limits)) - time.perf_counter()))
                marks.append(_marked(target))
                progress(loop, len(marks) - 1)
        except KeyboardInterrupt:
            interrupted = True
            marks.append(_marked(target))
        load.end()
    return _point(load, marks, limits, interrupted)


def _marked(target: Target) -> _Mark:
    at, cpu = time.perf_counter(), time.process_time()
    return _Mark(at, counted(target.statistics()), cpu)


def _end(load: Load, limits: Limits) -> float:
    return load.started + limits.max_seconds


def _enough(load: Load, marks: Sequence[_Mark], limits: Limits) -> bool:
    return time.perf_counter() >= _end(load, limits) or load.exhausted or _is_stable(load, marks, limits)


def _is_stable(load: Load, marks: Sequence[_Mark], limits: Limits) -> bool:
    """Say whether the last windows agree."""
    import numpy as np

    if len(marks) <= limits.agreeing:
        return False
    records, edges = load.records(), [mark.at for mark in marks[-limits.agreeing - 1 :]]
    spans = [*itertools.pairwise(edges)]
    windows = [[one for one in records if begin <= one.done < end and not one.failed] for begin, end in spans]
    if not all(windows):
        return False
    # What was answered of what was due: how much is due in a window of an open loop is chance.
    due = [sum(begin <= one.due < end for one in records) or 1 for begin, end in spans]
    came = due if load.loop.is_open else [end - begin for begin, end in spans]
    throughputs = np.array([len(window) / many for window, many in zip(windows, came, strict=True)])
    latencies = np.array([np.mean([one.done - one.due for one in window]) for window in windows])
    return all(
        bool((np.abs(values / values.mean() - 1.0) <= limits.stability).all()) for values in (throughputs, latencies)
    )


def _point(load: Load, marks: Sequence[_Mark], limits: Limits, interrupted: bool) -> Point:
    """Sum up the last windows; all that there is where there are fewer."""
    stable = not interrupted and _is_stable(load, marks, limits)
    first, last = marks[-limits.agreeing - 1] if len(marks) > limits.agreeing else marks[0], marks[-1]
    records, seconds = load.records(), last.at - first.at
    done = [one for one in records if first.at <= one.done < last.at]
    sent, due = _due(load, records, first, last) if load.loop.is_open else (done, len(done))
    # Of an open loop what was due then, also what was answered later: nothing slow is left out. Where part of it was
    # never sent, what was would be the luckier part, or nothing; then what was answered stands for it.
    chosen = sent if len(sent) >= _SENT * due else done
    answered = [one for one in chosen if not one.failed]
    return Point(
        loop=load.loop,
        requests=len(chosen),
        failed=len(chosen) - len(answered),
        seconds=seconds,
        throughput_per_s=sum(not one.failed for one in done) / seconds if seconds > 0 else 0.0,
        latencies_ms=_latencies(answered),
        stable=stable,
        interrupted=interrupted,
        windows=len(marks) - 1,
        components=between(first.counters, last.counters, last.counters),
        reasons=dict(load.reasons.most_common(5)),
        generator=_generator(
            load, chosen, (first, last), 1.0 - sum(not one.overdue for one in sent) / due if due else 0.0
        ),
    )


def _due(load: Load, records: Sequence[Record], first: _Mark, last: _Mark) -> tuple[list[Record], int]:
    """Return what was sent of what was due in an open loop then, and how many that were."""
    times = itertools.islice(load.loop.times(load.started), load.most_requests)
    due = sum(at >= first.at for at in itertools.takewhile(lambda at: at < last.at, times))
    return [one for one in records if first.at <= one.due < last.at], due


def _latencies(records: Sequence[Record]) -> FloatArray:
    import numpy as np

    return np.sort(np.array([one.done - one.due for one in records], dtype=np.float64)) * 1e3


def _generator(load: Load, chosen: Sequence[Record], span: tuple[_Mark, _Mark], busy_share: float) -> Generator:
    import numpy as np

    first, last = span
    wakes = load.wake_delays_ms(first.at, last.at)
    late = np.array([one.sent - one.due for one in chosen], dtype=np.float64) * 1e3 if load.loop.is_open else wakes
    p50, p99 = np.percentile(late, [50, 99]).tolist() if len(late) else (0.0, 0.0)
    return Generator(
        late_p50_ms=p50,
        late_p99_ms=p99,
        woken_late_p50_ms=float(np.median(wakes)) if len(wakes) else 0.0,
        cores=(last.cpu_s - first.cpu_s) / (last.at - first.at) if last.at > first.at else 0.0,
        busy_share=busy_share,
    )
