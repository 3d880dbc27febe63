"""Serve several published ensembles at once and ask them in turns: a part of `variants.py`.

One Triton has all repositories; closed-loop clients ask one ensemble at a time, in blocks of a tenth of a second, with
the same samples for each. A round is a block of every ensemble; its order is drawn by seed and mirrored in every second
round, so that a machine that slows down or speeds up does it to all. Intervals of ratios are widened by what two
servings of the same files differ by as long as they live, as those of the latency gate are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdeploy.core.contracts import FeedDict
from mmdeploy.scoring import metrics
from mmdeploy.scoring.load import BLOCK_SECONDS, Block, Clients
from mmdeploy.scoring.looks import lasting
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        concurrency: Requests of one sample in flight.
        rounds: Blocks of each ensemble.
    """

    concurrency: int
    rounds: int


@dataclass(frozen=True)
class Served:
    """What one ensemble did under a load, beside the reference.

    Attributes:
        p50_ms: Median latency, and its interval.
        p95_ms: 95th percentile, and its interval.
        per_second: Samples a second.
        p50_ratio: Median latency over the reference's, and its interval.
        rate_ratio: Samples a second over the reference's, and its interval.
        requests: Requests counted.
    """

    p50_ms: tuple[float, float, float]
    p95_ms: tuple[float, float, float]
    per_second: float
    p50_ratio: tuple[float, float, float]
    rate_ratio: tuple[float, float, float]
    requests: int


class Ensemble:
    """One of the ensembles on a server, as clients open connections to it."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name

    def runner(self, model: str | None = None) -> GrpcRunner:
        """Open a connection."""
        return GrpcRunner(self._url, model or self._name)


def side_by_side(
    repositories: Mapping[str, Path], names: Mapping[str, str], requests: Sequence[FeedDict], loads: Sequence[Load],
    *, log: Path, seed: int = 0,
) -> list[dict[str, Served]]:  # fmt: skip
    """Serve repositories on one Triton and measure each load.

    Args:
        repositories: By label; the first is the reference.
        names: Name of the ensemble, by label.
        requests: Of one sample each, asked in a cycle.
        loads: What to measure, one after the other.
        log: Of the server.
        seed: Of order and resampling.

    Returns:
        For each load what each ensemble did.
    """
    with triton_server.start(list(repositories.values()), log=log, ready_timeout_s=300.0) as server:
        ensembles = {label: Ensemble(server.grpc_url, names[label]) for label in repositories}
        return [_measured(ensembles, requests, load, seed) for load in loads]


def _measured(
    ensembles: Mapping[str, Ensemble], requests: Sequence[FeedDict], load: Load, seed: int
) -> dict[str, Served]:
    random, blocks = np.random.default_rng(seed), {label: list[Block]() for label in ensembles}
    with ExitStack() as stack:
        clients = {}
        for label, ensemble in ensembles.items():
            clients[label] = Clients(
                ensemble, None, requests, concurrency=load.concurrency, clock=time.perf_counter
            )  # fmt: skip
            stack.callback(clients[label].close)
        slowest = max(_warm(one) for one in clients.values())
        count = max(2 * load.concurrency, round(BLOCK_SECONDS / slowest))
        order = list(clients)
        for number in range(load.rounds):
            order = [str(label) for label in random.permutation(order)] if number % 2 == 0 else order[::-1]
            for label in order:
                blocks[label].append(clients[label].block(number * count, count))
    reference = blocks[next(iter(blocks))]
    return {label: _figures(own, reference, count, seed) for label, own in blocks.items()}


def _warm(clients: Clients) -> float:
    """Return the seconds that a request takes once the first ones are answered."""
    clients.block(0, 32)
    return clients.block(32, 32).seconds / 32


def _figures(own: Sequence[Block], reference: Sequence[Block], count: int, seed: int) -> Served:
    mine, theirs = (np.stack([block.latencies_ms for block in blocks]) for blocks in (own, reference))
    my_seconds, their_seconds = (np.array([block.seconds for block in blocks]) for blocks in (own, reference))

    def percentile(percent: float) -> tuple[float, float, float]:
        low, high = metrics.percentile_interval(mine, percent, confidence=CONFIDENCE, seed=seed)
        return float(np.percentile(mine, percent)), low, high

    def rate(rounds: np.ndarray) -> np.ndarray:
        return np.asarray(their_seconds[rounds].sum(axis=-1) / my_seconds[rounds].sum(axis=-1))

    p50_ratio = float(np.median(mine) / np.median(theirs))
    p50_interval = metrics.percentile_ratio_interval(mine, theirs, 50, confidence=CONFIDENCE, seed=seed)
    return Served(
        p50_ms=percentile(50),
        p95_ms=percentile(95),
        per_second=count * len(own) / float(my_seconds.sum()),
        p50_ratio=(p50_ratio, *lasting(p50_interval)),
        rate_ratio=(
            float(rate(np.arange(len(own)))),
            *lasting(metrics.bootstrap_interval(rate, len(own), confidence=CONFIDENCE, seed=seed, resamples=4000)),
        ),
        requests=count * len(own),
    )
