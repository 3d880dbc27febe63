"""Two releases of a model side by side on live traffic: a share of requests to the candidate, or its answers compared.

A canary answers its share; where it fails, the live release answers and the failure is counted. A shadow is asked after
the live release has answered, a few at a time, and its answers are only compared: it delays nobody. State is in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmdeploy.core.contracts import Array, FeedDict
from mmdeploy.gateway.catalogue import Model, Output
from mmdeploy.gateway.problems import Refused

logger = logging.getLogger(__name__)

Ask = Callable[[str, FeedDict], Awaitable[dict[str, Array]]]

_MOST_LATENCIES = 5000
_MOST_SHADOWS = 8
_SAME_DIRECTION = 0.99


@dataclass
class Arm:
    """What became of the requests that one of the two was asked.

    Attributes:
        requests: Answered or failed; a request that is wrong counts for nobody.
        failed: Of these, not answered.
        latencies_ms: Of the latest that were answered.
    """

    requests: int = 0
    failed: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_LATENCIES))

    def told(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        latencies = [round(one, 3) for one in self.latencies_ms]
        return {"requests": self.requests, "failed": self.failed, "latencies_ms": latencies}


class Rollout:
    """A candidate beside a live model."""

    def __init__(self, model: Model, candidate: str, share: float, shadow: bool) -> None:
        """Begin with nothing counted.

        Args:
            model: The live one.
            candidate: Name of a model that answers the same requests.
            share: Of the requests, from 0 to 1.
            shadow: Whether the candidate is only compared.
        """
        self.model, self.candidate, self.share, self.shadow = model, candidate, share, shadow
        self.live_arm, self.candidate_arm = Arm(), Arm()
        self._pairs = self._agree = 0
        self._worst = 0.0
        self._shadows: set[asyncio.Task[None]] = set()

    def told(self) -> dict[str, Any]:
        """Return the state as JSON has it."""
        return {
            "candidate": self.candidate,
            "share": self.share,
            "shadow": self.shadow,
            "arms": {"live": self.live_arm.told(), "candidate": self.candidate_arm.told()},
            "compared": {"pairs": self._pairs, "agree": self._agree, "worst_difference": self._worst},
        }

    async def answer(self, ask: Ask, feed_dict: FeedDict, sticky: str | None) -> tuple[dict[str, Array], str]:
        """Answer one request; return the answer and the model that gave it.

        Args:
            ask: Asks a model.
            feed_dict: What it is asked.
            sticky: Requests with the same text are answered by the same release.
        """
        chosen = _draw(sticky) < self.share
        if not chosen or self.shadow:
            answers = await _counted(self.live_arm, ask, self.model.name, feed_dict)
            if chosen:
                self._compare_later(ask, feed_dict, answers)
            return answers, self.model.name
        try:
            return await _counted(self.candidate_arm, ask, self.candidate, feed_dict), self.candidate
        except Refused as refused:
            answers = await _counted(self.live_arm, ask, self.model.name, feed_dict)
            if refused.status < 500:  # right for the live one: the candidate is at fault
                self.candidate_arm.requests += 1
                self.candidate_arm.failed += 1
            return answers, self.model.name

    async def close(self) -> None:
        """End what is still being compared."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)

    def _compare_later(self, ask: Ask, feed_dict: FeedDict, answers: Mapping[str, Array]) -> None:
        if len(self._shadows) >= _MOST_SHADOWS:
            return
        task = asyncio.create_task(self._compare(ask, feed_dict, answers))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _compare(self, ask: Ask, feed_dict: FeedDict, answers: Mapping[str, Array]) -> None:
        try:
            others = await _counted(self.candidate_arm, ask, self.candidate, feed_dict)
        except Refused as refused:
            if refused.status < 500:
                self.candidate_arm.requests += 1
                self.candidate_arm.failed += 1
            return
        agree, difference = compared(self.model.outputs, answers, others)
        self._pairs += 1
        self._agree += agree
        self._worst = max(self._worst, difference)


async def _counted(arm: Arm, ask: Ask, model: str, feed_dict: FeedDict) -> dict[str, Array]:
    started = time.perf_counter()
    try:
        answers = await ask(model, feed_dict)
    except Refused as refused:
        if refused.status >= 500:
            arm.requests += 1
            arm.failed += 1
        raise
    arm.requests += 1
    arm.latencies_ms.append((time.perf_counter() - started) * 1000)
    return answers


def _draw(sticky: str | None) -> float:
    """Return a number of [0, 1): of a text always the same, else at random."""
    if sticky is None:
        return random.random()
    return int.from_bytes(hashlib.sha256(sticky.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def compared(
    outputs: Mapping[str, Output], answers: Mapping[str, Array], others: Mapping[str, Array]
) -> tuple[bool, float]:
    """Say whether two answers agree, and how far apart their numbers are at most.

    Scores of classes agree where the best class of every row is the same, other floating-point tensors where every row
    points in the same direction (cosine at least 0.99), all else where it is equal.
    """
    agree, worst = True, 0.0
    for name, one in answers.items():
        other = others.get(name)
        if other is None or other.shape != one.shape or other.dtype != one.dtype:
            return False, worst
        if one.dtype.kind != "f":
            agree &= bool(np.array_equal(one, other))
            continue
        left, right = one.astype(np.float64), other.astype(np.float64)
        difference = np.abs(left - right)
        if not np.isfinite(difference).all():
            agree &= bool(np.array_equal(one, other, equal_nan=True))
            continue
        worst = max(worst, float(difference.max(initial=0.0)))
        meaning = outputs[name].meaning if name in outputs else "values"
        agree &= _alike(left, right, by_best=meaning in ("logits", "probabilities"))
    return agree, worst


def _alike(left: Array, right: Array, *, by_best: bool) -> bool:
    if by_best and left.shape[-1:] > (1,):
        return bool((left.argmax(axis=-1) == right.argmax(axis=-1)).all())
    rows, others = (
        left.reshape(max(1, len(left) if left.ndim else 1), -1),
        right.reshape(max(1, len(right) if right.ndim else 1), -1),
    )
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    products = (rows * others).sum(axis=1)
    return bool((np.where(norms > 0, products >= _SAME_DIRECTION * norms, (rows == others).all(axis=1))).all())
