"""What was measured of one load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdeploy.performance.counters import Component
from mmdeploy.performance.generator import Loop

if TYPE_CHECKING:
    from mmdeploy.scoring.metrics import FloatArray

#: Share of a core above which threads of one interpreter wait for each other more than for the server.
_BUSY_CORES = 0.8
#: Lateness that does not matter, in milliseconds and as a share of the median latency.
_LATE_MS, _LATE_SHARE = 0.5, 0.05
#: Share of requests that found all clients busy from which on a rate was not put.
_FULL = 0.05


@dataclass(frozen=True)
class Generator:
    """What the load generator itself added.

    Attributes:
        late_p50_ms: How late a request was sent after it was due; in a closed loop how late a thread woke up.
        late_p99_ms: Likewise, of the worst hundredth.
        woken_late_p50_ms: How late a sleeping thread of this process woke up.
        cores: Cores' worth of time that it took; 1 is all that it can.
        busy_share: Share of requests that were due when all of its connections were waiting for answers.
    """

    late_p50_ms: float
    late_p99_ms: float
    woken_late_p50_ms: float
    cores: float
    busy_share: float

    def to_json(self) -> dict[str, float]:
        """Return JSON-able fields."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Point:
    """One load, and how the server bore it.

    Attributes:
        loop: The load.
        requests: That were counted.
        failed: Of them.
        seconds: Time over which they were counted.
        throughput_per_s: Requests answered a second.
        latencies_ms: Of those answered, ascending.
        stable: Whether the windows agree.
        interrupted: Whether it was ended before that could be known.
        windows: That were watched.
        components: What Triton counted meanwhile, by model.
        reasons: What failed requests were told, with how often, from the start of the load.
        generator: What the generator added.
    """

    loop: Loop
    requests: int
    failed: int
    seconds: float
    throughput_per_s: float
    latencies_ms: FloatArray
    stable: bool
    interrupted: bool
    windows: int
    components: Mapping[str, Component]
    reasons: Mapping[str, int]
    generator: Generator

    def percentile_ms(self, percent: float) -> float | None:
        """Return a percentile of the latencies; None where nothing was answered."""
        import numpy as np

        return float(np.percentile(self.latencies_ms, percent)) if len(self.latencies_ms) else None

    @property
    def mean_ms(self) -> float | None:
        """Mean latency; None where nothing was answered."""
        return float(self.latencies_ms.mean()) if len(self.latencies_ms) else None

    @property
    def name(self) -> str:
        """The load in words."""
        if self.loop.is_open:
            return f"{self.loop.rate_per_s:g}/s"
        return f"{self.loop.concurrency} client{'' if self.loop.concurrency == 1 else 's'}"

    @property
    def _behind(self) -> bool:
        """Whether more was due than all connections could carry."""
        return self.generator.busy_share > _FULL

    def notes(self) -> Iterator[str]:
        """Say what a reader of the figures must know."""
        if self.interrupted:
            yield f"{self.name}: interrupted after {self.seconds:.1f} s, this is what was measured until then"
        elif not self.requests:
            yield f"{self.name}: nothing was answered in the last {self.seconds:.1f} s: the server hangs or is too slow"
        elif not self.stable and self._behind:
            yield (
                f"{self.name}: unstable: {self.throughput_per_s:.1f} a second are answered, so waits grow as long as "
                "this load lasts"
            )
        elif not self.stable:
            yield f"{self.name}: unstable, the last windows of {self.windows} do not agree; give it more time"
        if self.failed:
            told = "; ".join(f"{count} × {reason}" for reason, count in self.reasons.items())
            yield f"{self.name}: {self.failed} of {self.requests} requests failed: {told}"
        if 0 < len(self.latencies_ms) < 100:
            yield f"{self.name}: {len(self.latencies_ms)} answers are too few for a p99, it is next to their maximum"
        yield from self._about_caches()
        yield from self._about_the_generator()

    def _about_caches(self) -> Iterator[str]:
        for model, one in self.components.items():
            if one.cache_hits:
                share = one.cache_hits / max(one.cache_hits + one.cache_misses, 1)
                yield f"{self.name}: the response cache answered {share:.0%} of the requests to {model}"

    def _about_the_generator(self) -> Iterator[str]:
        generator, median = self.generator, self.percentile_ms(50) or 0.0
        if self._behind:
            yield (
                f"{self.name}: the server does not keep up: at {generator.busy_share:.0%} of the requests all "
                f"{self.loop.clients} connections were waiting for answers; latencies count from when each was due"
            )
        elif generator.late_p50_ms > max(_LATE_MS, _LATE_SHARE * median):
            yield (
                f"{self.name}: the generator is late by {generator.late_p50_ms:.2f} ms (median): this machine is busy, "
                "and latencies hold that much of its own"
            )
        if generator.cores > _BUSY_CORES:
            yield (
                f"{self.name}: the generator took {generator.cores:.2f} of the one core that it can: it, not the "
                "server, may be what limits the throughput; share the load among several"
            )

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        load = {"rate": self.loop.rate_per_s} if self.loop.is_open else {"concurrency": self.loop.concurrency}
        return {
            **load,
            "requests": self.requests,
            "failed": self.failed,
            "seconds": self.seconds,
            "throughput_per_s": self.throughput_per_s,
            "mean_ms": self.mean_ms,
            **{f"p{percent}_ms": self.percentile_ms(percent) for percent in (50, 90, 95, 99)},
            "max_ms": self.percentile_ms(100),
            "stable": self.stable,
            "interrupted": self.interrupted,
            "windows": self.windows,
            "components": {name: one.to_json() for name, one in self.components.items()},
            "reasons": dict(self.reasons),
            "generator": self.generator.to_json(),
            "notes": [*self.notes()],
        }
