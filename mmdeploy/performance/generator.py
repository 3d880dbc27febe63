"""The load generator: clients in threads that ask prepared requests, in a closed loop or at the times of a schedule.

**Closed loop**: each client sends its next request when the last one is answered, so as many are in flight at any time
as there are clients. **Open loop**: requests are due at random times of a Poisson process, as from many callers that
know nothing of each other, whether earlier ones are answered or not; a latency runs from the time at which the request
was *due*. A server that stalls is so charged for all who would have come meanwhile (no coordinated omission).

What the generator itself adds is measured beside: how late it sent what was due, how late a thread of it wakes up, and
how much of a core it took. Its threads share one interpreter, so that one core is all that it can take.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.performance.prepared import InChunks, Prepared, Turns
from mmdeploy.performance.target import Connection, Target

if TYPE_CHECKING:
    from mmdeploy.scoring.metrics import FloatArray

#: Connections of an open loop: as many as are in flight in half a second, within these bounds.
_IN_FLIGHT_S, _LEAST_CLIENTS, _MOST_CLIENTS = 0.5, 16, 256
#: How long a client waits after a failure: a server that refuses at once is not to be hammered.
_PAUSE_S = 0.02
_TICK_S = 0.01
#: A request that is due this long ago when a client takes it up found all clients busy.
_OVERDUE_S = 0.002


class Record(NamedTuple):
    """One request, in seconds of the monotonic clock."""

    due: float
    sent: float
    done: float
    failed: bool
    overdue: bool


@dataclass(frozen=True)
class Loop:
    """How requests come.

    Attributes:
        concurrency: Clients of a closed loop; 0 for an open one.
        rate_per_s: Mean rate of an open loop; 0 for a closed one.
        seed: Of the times of an open loop.
    """

    concurrency: int = 0
    rate_per_s: float = 0.0
    seed: int = 0

    @property
    def is_open(self) -> bool:
        """Whether requests come at times of their own."""
        return self.rate_per_s > 0

    @property
    def clients(self) -> int:
        """Threads that are needed."""
        if not self.is_open:
            return self.concurrency
        return min(_MOST_CLIENTS, max(_LEAST_CLIENTS, math.ceil(self.rate_per_s * _IN_FLIGHT_S)))

    def times(self, start: float) -> Iterator[float]:
        """Yield when each request is due, without end."""
        import numpy as np

        random, due = np.random.default_rng(self.seed), start
        while True:
            for gap in random.exponential(1.0 / self.rate_per_s, 1024).tolist():
                due += gap
                yield due


@dataclass
class Load:
    """A load that is running; a context manager that ends it.

    Attributes:
        target: What is asked.
        requests: What is asked, in turns; of samples in chunks each client has one sequence open.
        loop: How.
        most_requests: When to send no more.
        started: When it began, by the monotonic clock.
        reasons: What failed requests were told, with how often.
    """

    target: Target
    requests: Sequence[Prepared | InChunks]
    loop: Loop
    most_requests: int = 200_000
    started: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    _records: list[list[Record]] = field(default_factory=list)
    _wakes: list[tuple[float, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _samples: Iterator[int] = field(default_factory=itertools.count)
    _due: Iterator[float] | None = None

    def __enter__(self) -> Self:
        try:
            connections = self._resources.enter_context(self.target.connect(self.loop.clients))
            self._resources.callback(self.end)
            self.started = time.perf_counter()
            self._due = self.loop.times(self.started) if self.loop.is_open else None
            self._start(self._ticks)
            for connection in connections:
                records = list[Record]()
                self._records.append(records)
                self._start(self._client, connection, records)
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._resources.close()

    def end(self) -> None:
        """Send nothing more, and wait for what is in flight; calling it twice is fine."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def exhausted(self) -> bool:
        """Whether all requests that were allowed are sent."""
        return sum(map(len, self._records)) >= self.most_requests

    def records(self) -> list[Record]:
        """Return what is known so far, in the order in which requests ended."""
        return sorted((one for records in self._records for one in records[:]), key=lambda one: one.done)

    def wake_delays_ms(self, start: float, end: float) -> FloatArray:
        """Return how late a thread of this process woke up, each hundredth of a second."""
        import numpy as np

        return np.array([late for at, late in self._wakes if start <= at <= end], dtype=np.float64) * 1e3

    def _start(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _client(self, connection: Connection, records: list[Record]) -> None:
        turns, clock = Turns(self.requests, self._samples), time.perf_counter
        while not self._stop.is_set():
            with self._lock:
                number = next(self._numbers)
                due = next(self._due) if self._due is not None else None
            if number >= self.most_requests:
                break
            request = turns.next(number)
            overdue = due is not None and clock() - due > _OVERDUE_S
            if due is not None and not self._wait(due):
                break
            failed, sent = False, clock()
            try:
                connection.ask(request)
            except (InferenceError, ServerError) as error:
                failed = True
                self.reasons[error.message] += 1
                turns.give_up()
            done = clock()
            records.append(Record(sent if due is None else due, sent, done, failed, overdue))
            if failed and due is None:
                self._stop.wait(_PAUSE_S)
        if (last := turns.give_up()) is not None:  # an open sequence would hold its place on the server
            with contextlib.suppress(InferenceError, ServerError):
                connection.ask(last)

    def _wait(self, due: float) -> bool:
        """Sleep until a request is due; False where the load ended meanwhile."""
        while (left := due - time.perf_counter()) > 0:
            if left > 0.05:
                if self._stop.wait(left - 0.02):
                    return False
            else:
                time.sleep(left)
        return not self._stop.is_set()

    def _ticks(self) -> None:
        """Note how late this process is woken: any of its clients would be as late with an answer."""
        while not self._stop.is_set():
            wanted = time.perf_counter() + _TICK_S
            time.sleep(_TICK_S)
            self._wakes.append((wanted, time.perf_counter() - wanted))
