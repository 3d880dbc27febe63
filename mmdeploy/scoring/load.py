"""Put two deployments under the same load, side by side.

How: closed-loop clients (each sends its next request when the last one is answered) put real evaluation samples to
the candidate and to the reference in *blocks* of about a tenth of a second. One block of each is a *round*; rounds
alternate their order in the pattern ABBA or BAAB (drawn by seed), so a machine that slows down or speeds up does it
to both. Within a round both get the same samples. The first request of each client in a block is not counted.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Self

from pydantic import Field

from mmdeploy.core.contracts import (
    Array,
    Check,
    Deployment,
    Evidence,
    FeedDict,
    MethodOptions,
    Runner,
    Verdict,
)
from mmdeploy.core.errors import InferenceError
from mmdeploy.scoring import ask
from mmdeploy.scoring.metrics import FloatArray

Clock = Callable[[], float]

#: Wanted length of a block: short against drift of the machine, long against the cost of changing sides.
BLOCK_SECONDS = 0.1
#: Rounds at the first look, so that resampling rounds means something, and the least that any verdict needs.
FIRST_ROUNDS, MIN_ROUNDS = 30, 8


class LoadOptions(MethodOptions):
    """What latency and throughput share.

    Attributes:
        batch: Samples a request.
        concurrency: Requests in flight at any time.
        requests: Requests counted on each side before the first look.
        max_seconds: When to stop measuring and say ``inconclusive``. Limits that are close need the time: what wanders
            slowly shows in minutes, however many requests there are.
        warmup: Requests to each side before anything is counted.
        confidence: Of the intervals, over all looks together: how rarely noise may decide.
        hardware: Name or glob of the CPU or GPU that absolute limits hold on; needed with them.
        lengths: Lengths of the samples asked, by the size's name, such as ``{tokens: 32}``; their own where it is left
            out. Where no sample has a length, samples are cut or repeated to it.
    """

    batch: int = Field(default=1, ge=1)
    concurrency: int = Field(default=1, ge=1, le=256)
    requests: int = Field(default=500, ge=FIRST_ROUNDS)
    max_seconds: float = Field(default=60.0, gt=0.0)
    warmup: int = Field(default=20, ge=0)
    confidence: float = Field(default=0.99, gt=0.5, lt=1.0)
    hardware: str | None = None
    lengths: dict[str, int] = Field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """What one deployment did in one block.

    Attributes:
        latencies_ms: One a counted request.
        seconds: From the first counted request sent to the last one answered.
        at: Its middle, by the clock of the measurement.
    """

    latencies_ms: FloatArray
    seconds: float
    at: float


class Clients:
    """Closed-loop clients of one deployment, each with a connection and a thread of its own."""

    def __init__(
        self,
        deployment: Deployment,
        model: str | None,
        requests: Sequence[FeedDict],
        *,
        concurrency: int,
        clock: Clock,
    ) -> None:
        self._requests, self._clock, self._stopped = requests, clock, False
        self._runners: list[Runner] = []
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="gate-client")
        try:
            for _ in range(concurrency):
                self._runners.append(deployment.runner(model))
        except BaseException:
            self.close()
            raise

    def block(self, first: int, count: int) -> Block:
        """Send requests ``first`` to ``first + count - 1`` of the endless cycle of samples.

        Raises:
            InferenceError: If a request is refused.
        """
        import numpy as np

        tickets, start_line = itertools.count(first), threading.Barrier(len(self._runners))
        futures = [
            self._pool.submit(self._client, runner, tickets, first + count, start_line) for runner in self._runners
        ]
        wait(futures)
        runs = [run for future in futures if (run := future.result()) is not None]
        latencies_ms = np.concatenate([np.asarray(run[2], dtype=np.float64) for run in runs]) * 1e3
        began, ended = min(run[0] for run in runs), max(run[1] for run in runs)
        return Block(latencies_ms, ended - began, (began + ended) / 2)

    def _client(
        self, runner: Runner, tickets: itertools.count[int], stop: int, start_line: threading.Barrier
    ) -> tuple[float, float, list[float]] | None:
        requests, clock = self._requests, self._clock
        try:
            runner.infer(requests[stop % len(requests)])
            start_line.wait()
        except threading.BrokenBarrierError:
            return None  # another client was refused, and says so
        except BaseException:
            start_line.abort()
            raise
        latencies, began = list[float](), clock()
        while (ticket := next(tickets)) < stop and not self._stopped:
            request = requests[ticket % len(requests)]
            sent = clock()
            runner.infer(request)
            latencies.append(clock() - sent)
        return began, clock(), latencies

    def close(self) -> None:
        """Stop the threads and close the connections."""
        self._stopped = True
        self._pool.shutdown(cancel_futures=True)
        for runner in self._runners:
            runner.close()


@dataclass
class Measurement:
    """Rounds measured so far.

    Attributes:
        candidate: The candidate's block of each round.
        reference: The reference's block of each round.
        block_requests: Requests counted in every block.
        looks: How often a verdict was tried.
        refusal: Who refused a request and why, as a check; nothing more was measured then.
    """

    candidate: list[Block] = field(default_factory=list)
    reference: list[Block] = field(default_factory=list)
    block_requests: int = 0
    looks: int = 0
    refusal: Check | None = None

    @property
    def requests(self) -> int:
        """Requests counted on each side."""
        return len(self.candidate) * self.block_requests

    def halves(self) -> tuple[Measurement, Measurement]:
        """Return the earlier and the later half of the rounds."""
        middle = len(self.candidate) // 2
        return (
            replace(self, candidate=self.candidate[:middle], reference=self.reference[:middle]),
            replace(self, candidate=self.candidate[middle:], reference=self.reference[middle:]),
        )


class SideBySide:
    """The candidate and the reference, measured in turns; a context manager."""

    def __init__(
        self, evidence: Evidence, feeds: Mapping[str, Array], options: LoadOptions, *, model: str | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:  # fmt: skip
        import numpy as np

        self._options = options
        self._requests = ask.requests(feeds, options.batch)
        self._order = np.random.default_rng(evidence.seed)
        self._swapped = False
        self.clock, self.measured = clock, Measurement()
        self._clients: dict[str, Clients] = {}
        try:
            for side, deployment in (("candidate", evidence.candidate), ("reference", evidence.reference)):
                try:
                    self._clients[side] = Clients(
                        deployment, model, self._requests, concurrency=options.concurrency, clock=clock
                    )
                except InferenceError as error:  # such as a model that is not served
                    self._refused(side, error)
                    break
        except BaseException:
            self.close()
            raise

    def warm_up(self) -> None:
        """Send uncounted requests to both sides, and learn how many make a block."""
        slowest = max(self._warm_up("candidate"), self._warm_up("reference"))
        wanted = round(BLOCK_SECONDS / slowest) if slowest > 0 else self._options.requests
        most = max(self._options.requests // FIRST_ROUNDS, self._options.concurrency)
        self.measured.block_requests = min(max(wanted, self._options.concurrency), most)

    def _warm_up(self, side: str) -> float:
        """Warm one side up, in an eighth of the time at most, and return the seconds that a request takes."""
        sent, count, until = 0, 2 * self._options.concurrency, self.clock() + self._options.max_seconds / 8
        while (block := self._block(side, sent, count)) is not None:
            sent += count
            if sent >= self._options.warmup or self.clock() >= until:
                return block.seconds / count
        return 0.0

    def round(self) -> bool:
        """Measure one block of each side; False once a request was refused."""
        done = len(self.measured.candidate)
        first = done * self.measured.block_requests
        if done % 2 == 0:  # every second round mirrors the one before it
            self._swapped = bool(self._order.integers(2))
        order = ("candidate", "reference") if self._swapped == (done % 2 == 0) else ("reference", "candidate")
        blocks = {side: self._block(side, first, self.measured.block_requests) for side in order}
        candidate, reference = blocks["candidate"], blocks["reference"]
        if candidate is None or reference is None:
            return False
        self.measured.candidate.append(candidate)
        self.measured.reference.append(reference)
        return True

    def _block(self, side: str, first: int, count: int) -> Block | None:
        if self.measured.refusal is not None:
            return None
        try:
            return self._clients[side].block(first, count)
        except InferenceError as error:
            self._refused(side, error)
            return None

    def _refused(self, side: str, error: InferenceError) -> None:
        verdict = Verdict.FAIL if side == "candidate" else Verdict.INCONCLUSIVE
        note = f"the {side} did not answer: {error.message}"
        self.measured.refusal = Check("requests answered", None, "all", verdict, note=note)

    def close(self) -> None:
        """Close every connection."""
        for clients in self._clients.values():
            clients.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
