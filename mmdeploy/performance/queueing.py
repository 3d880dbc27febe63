"""A Triton server as a network of queues, simulated event by event with simpy.

Each model of an ensemble (*stage*) has a queue and instances. With dynamic batching a free instance takes a batch once
it has a preferred size (the largest that is there; without preferred sizes the largest batch), or once its oldest
request has waited for the delay; without, it takes one request. A stage is asked when all stages that it reads from
have answered. What runs takes time as measured for its batch, and all that runs shares the cores: with more threads
than cores, each goes slower in proportion (processor sharing), as an operating system does it within milliseconds. What
begins while all cores are busy takes its time only on average: who waits for a core, and how long, is a matter of luck.
Each request also costs some work and some waiting outside of the models: the network, the protocol, the ensemble.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from mmdeploy.scoring.metrics import FloatArray

#: Draws the seconds that an execution takes, of a number of rows.
ServiceTime = Callable[[int, "np.random.Generator"], float]
_INSTANT = 1e-12


@dataclass(frozen=True)
class Stage:
    """One model.

    Attributes:
        name: Of the model.
        seconds: What an execution takes, on cores of its own.
        after: Stages that it reads from.
        instances: Executions that run side by side.
        max_batch: Most rows of an execution.
        delay_s: How long a request waits for others to share its batch; None without dynamic batching.
        preferred: Batch sizes that are run at once.
        threads: Cores that an execution keeps busy.
        spread: Standard deviation of the logarithm of what an execution takes that begins while all cores are busy.
    """

    name: str
    seconds: ServiceTime
    after: tuple[str, ...] = ()
    instances: int = 1
    max_batch: int = 1
    delay_s: float | None = None
    preferred: tuple[int, ...] = ()
    threads: int = 1
    spread: float = 0.0


@dataclass(frozen=True)
class Network:
    """A server.

    Attributes:
        stages: Its models.
        cores: That they share; infinity where nothing is shared.
        around: Draws the seconds of work on the cores and of waiting that a request costs outside of the models.
        rows: Of a request.
    """

    stages: tuple[Stage, ...]
    cores: float = math.inf
    around: Callable[[np.random.Generator], tuple[float, float]] | None = None
    rows: int = 1


@dataclass(frozen=True)
class StageLoad:
    """What a stage did.

    Attributes:
        utilization: Share of the time that its instances were busy.
        batch: Mean rows of an execution.
        queue_s: Mean time that a request waited.
        executions: How many were begun.
        requests: That it answered.
    """

    utilization: float
    batch: float
    queue_s: float
    executions: int
    requests: int


@dataclass(frozen=True)
class Simulated:
    """What a load came to.

    Attributes:
        latencies_s: Of the requests after the first tenth, in the order in which they came.
        throughput_per_s: Requests answered a second.
        stages: By name.
        cores_busy: Mean share of the cores that worked.
        in_system: Mean number of requests that were in the server.
    """

    latencies_s: FloatArray
    throughput_per_s: float
    stages: dict[str, StageLoad]
    cores_busy: float
    in_system: float

    def percentile_s(self, percent: float) -> float:
        """Return a percentile of the latencies."""
        import numpy as np

        return float(np.percentile(self.latencies_s, percent))


def simulate(
    network: Network, *, rate_per_s: float = 0.0, clients: int = 0, requests: int = 10_000, seed: int = 0
) -> Simulated:
    """Put a load on a network: at Poisson times, or from clients that each wait for an answer.

    Args:
        network: The server.
        rate_per_s: Of an open loop; 0 for a closed one.
        clients: Of a closed loop; 0 for an open one.
        requests: When to end.
        seed: Of all that is drawn.
    """
    return _Run(network, rate_per_s, clients, requests, seed).result()


@dataclass
class _Request:
    came: float
    waits_for: dict[str, int]
    left: int
    answered: float = math.nan


class _Cores:
    """Cores that what runs shares equally."""

    def __init__(self, env: Any, cores: float) -> None:
        self._env, self._cores = env, cores
        self._running: dict[int, list[Any]] = {}  # work left, threads, what to call
        self._next, self._timer, self._since = 0, 0, 0.0
        self.busy_s = 0.0

    def would_be_full(self, threads: int) -> bool:
        """Say whether so many threads more leave no core idle."""
        return self._wanted() + threads >= self._cores

    def work(self, seconds: float, threads: int, done: Callable[[], None]) -> None:
        """Run some work, and call when it is done."""
        self._advance()
        self._running[self._next] = [max(seconds, 0.0), threads, done]
        self._next += 1
        self._schedule()

    def _wanted(self) -> int:
        return sum(threads for _, threads, _ in self._running.values())

    def _speed(self) -> float:
        wanted = self._wanted()
        return min(1.0, self._cores / wanted) if wanted else 1.0

    def _advance(self) -> None:
        passed, self._since = self._env.now - self._since, self._env.now
        if passed > 0 and self._running:
            speed = self._speed()
            for job in self._running.values():
                job[0] -= passed * speed
                self.busy_s += passed * speed * job[1]

    def _schedule(self) -> None:
        self._timer += 1
        if self._running:
            first = max(0.0, min(job[0] for job in self._running.values())) / self._speed()
            number = self._timer
            self._env.timeout(first).callbacks.append(lambda _: self._expired(number))

    def _expired(self, number: int) -> None:
        if number != self._timer:
            return  # something came or went meanwhile, and another timer counts
        self._advance()
        ended = [key for key, job in self._running.items() if job[0] <= _INSTANT + 1e-9 * abs(self._env.now)]
        called = [self._running.pop(key)[2] for key in ended]
        for done in called:
            done()
        self._schedule()


@dataclass
class _Queue:
    """A stage while it runs."""

    run: _Run
    stage: Stage
    readers: tuple[str, ...]
    waiting: deque[tuple[float, _Request]] = field(default_factory=deque)
    busy: int = 0
    busy_s: float = 0.0
    queue_s: float = 0.0
    executions: int = 0
    taken: int = 0
    answered: int = 0
    timer_at: float = math.inf

    def put(self, request: _Request) -> None:
        self.waiting.append((self.run.env.now, request))
        self.dispatch()

    def dispatch(self) -> None:
        """Have free instances take what they may take now."""
        while self.waiting and self.busy < self.stage.instances:
            count = self._takes()
            if count == 0:
                return
            batch = [self.waiting.popleft() for _ in range(count)]
            now = self.run.env.now
            self.queue_s += sum(now - came for came, _ in batch)
            self.busy, self.executions, self.taken = self.busy + 1, self.executions + 1, self.taken + count
            self.run.cores.work(self._seconds(count), self.stage.threads, functools.partial(self._done, batch, now))

    def _seconds(self, count: int) -> float:
        """Draw what an execution takes: log-normal around its mean where cores are fought for."""
        random, spread = self.run.random, self.stage.spread
        mean = self.stage.seconds(count * self.run.network.rows, random)
        if spread and self.run.cores.would_be_full(self.stage.threads):
            return mean * math.exp(random.normal(-spread * spread / 2, spread))
        return mean

    def _takes(self) -> int:
        """Return how many requests a free instance takes now; 0 where they wait for others."""
        stage, rows = self.stage, self.run.network.rows
        if stage.delay_s is None:
            return 1
        room = max(1, stage.max_batch // rows)
        there = min(len(self.waiting), room)
        fitting = [size // rows for size in stage.preferred if 0 < size // rows <= there]
        if fitting:
            return max(fitting)
        if not stage.preferred and there == room:
            return there
        due = self.waiting[0][0] + stage.delay_s
        if self.run.env.now >= due - _INSTANT:
            return there
        if self.timer_at != due:
            self.timer_at = due
            self.run.env.timeout(due - self.run.env.now).callbacks.append(lambda _: self.dispatch())
        return 0

    def _done(self, batch: Sequence[tuple[float, _Request]], began: float) -> None:
        self.busy -= 1
        self.busy_s += self.run.env.now - began
        self.answered += len(batch)
        for _, request in batch:
            request.left -= 1
            for reader in self.readers:
                request.waits_for[reader] -= 1
                if request.waits_for[reader] == 0:
                    self.run.queues[reader].put(request)
            if request.left == 0:
                self.run.answered(request)
        self.dispatch()


class _Run:
    def __init__(self, network: Network, rate_per_s: float, clients: int, requests: int, seed: int) -> None:
        import numpy as np
        import simpy

        self.network, self._rate, self._most = network, rate_per_s, requests
        self.env, self.random = simpy.Environment(), np.random.default_rng(seed)
        self._arrivals = np.random.default_rng([seed, 1])
        self.cores = _Cores(self.env, network.cores)
        readers = {
            stage.name: tuple(other.name for other in network.stages if stage.name in other.after)
            for stage in network.stages
        }
        self.queues = {stage.name: _Queue(self, stage, readers[stage.name]) for stage in network.stages}
        self._needs = {stage.name: len(stage.after) for stage in network.stages}
        self._sources = [stage.name for stage in network.stages if not stage.after]
        self._all: list[_Request] = []
        self._ended = self.env.event()
        self._left, self._inside, self._inside_s, self._since = requests, 0, 0.0, 0.0
        for _ in range(clients):
            self._come()
        if rate_per_s > 0:
            self._later()
        self.env.run(until=self._ended)

    def result(self) -> Simulated:
        import numpy as np

        took = self.env.now
        done = [not math.isnan(one.answered) for one in self._all]
        first = len(self._all) // 10
        if not any(done[first:]):  # so overloaded that only who came first was answered
            first = 0
        answered = [one for one, is_done in zip(self._all[first:], done[first:], strict=True) if is_done]
        stages = {
            name: StageLoad(
                utilization=queue.busy_s / (queue.stage.instances * took) if took else 0.0,
                batch=queue.taken * self.network.rows / queue.executions if queue.executions else 0.0,
                queue_s=queue.queue_s / queue.taken if queue.taken else 0.0,
                executions=queue.executions,
                requests=queue.answered,
            )
            for name, queue in self.queues.items()
        }
        return Simulated(
            latencies_s=np.array([one.answered - one.came for one in answered], dtype=np.float64),
            throughput_per_s=(self._most - self._left) / took if took else 0.0,
            stages=stages,
            cores_busy=self.cores.busy_s / (self.network.cores * took) if took else 0.0,
            in_system=self._inside_s / took if took else 0.0,
        )

    def answered(self, request: _Request) -> None:
        request.answered = self.env.now
        self._count(-1)
        self._left -= 1
        if self._left == 0:
            self._ended.succeed()
        elif self._rate <= 0:
            self._come()

    def _later(self) -> None:
        def come(_: object) -> None:
            self._come()
            self._later()

        self.env.timeout(self._arrivals.exponential(1.0 / self._rate)).callbacks.append(come)

    def _come(self) -> None:
        request = _Request(self.env.now, dict(self._needs), len(self.network.stages))
        self._all.append(request)
        self._count(1)
        if self.network.around is None:
            self._enter(request)
            return
        work, wait = self.network.around(self.random)
        if work > 0:
            begun = functools.partial(self.cores.work, work, 1, functools.partial(self._enter, request))
        else:
            begun = functools.partial(self._enter, request)
        self.env.timeout(max(wait, 0.0)).callbacks.append(lambda _: begun())

    def _enter(self, request: _Request) -> None:
        for name in self._sources:
            self.queues[name].put(request)

    def _count(self, change: int) -> None:
        self._inside_s += self._inside * (self.env.now - self._since)
        self._since, self._inside = self.env.now, self._inside + change
