"""Deployments whose requests cost what a test says, whatever the processor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Array, Deployment, FeedDict, Runner


@dataclass
class SteppedClock:
    """A clock that moves only when told to."""

    now: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds


class TimedDeployment:
    """A deployment whose requests take as long on a stepped clock as ``seconds()`` says."""

    def __init__(self, inner: Deployment, clock: SteppedClock, seconds: Callable[[], float]) -> None:
        self._inner, self._clock, self._seconds = inner, clock, seconds
        self.opened = self.closed = 0

    def runner(self, model: str | None = None) -> Runner:
        self.opened += 1
        return _TimedRunner(self._inner.runner(model), self)

    def memory_bytes(self) -> int:
        return self._inner.memory_bytes()

    def size_bytes(self) -> Mapping[str, int]:
        return self._inner.size_bytes()


class _TimedRunner:
    def __init__(self, inner: Runner, owner: TimedDeployment) -> None:
        self._inner, self._owner = inner, owner

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._inner.outputs

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        self._owner._clock.advance(self._owner._seconds())
        return self._inner.infer(feed_dict)

    def close(self) -> None:
        self._owner.closed += 1
        self._inner.close()
