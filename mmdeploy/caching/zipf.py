"""Makes traces whose contents are asked for by Zipf's law: the k-th most popular ``1 / k ** exponent`` as often.

For tests and benchmarks. Real traffic differs: what is popular changes, and modalities are asked for together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmdeploy.caching.trace import Content, Request


@dataclass(frozen=True)
class Popularity:
    """How an input's contents are asked for.

    Attributes:
        contents: Number of different ones.
        exponent: Of Zipf's law; 0 asks for all alike.
        samples: Name contents by the samples of the recipe's evaluation data, not by hashes.
    """

    contents: int
    exponent: float = 1.0
    samples: bool = False


def zipf_trace(
    inputs: Mapping[str, Popularity], requests: int, *, seed: int, rate_hz: float = 10.0, together: float = 0.0
) -> tuple[Request, ...]:
    """Draw a trace.

    Args:
        inputs: By the ensemble's input name.
        requests: How many.
        seed: Of everything random.
        rate_hz: Mean requests a second; they come as they like (a Poisson process).
        together: Share of requests in which all inputs have one rank, as when a product's picture comes with its text.
    """
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / rate_hz, requests))
    ranks = {}
    for name, popularity in inputs.items():
        weights = 1.0 / np.arange(1, popularity.contents + 1) ** popularity.exponent
        ranks[name] = random.choice(popularity.contents, size=requests, p=weights / weights.sum())
    joint = random.random(requests) < together
    leader = next(iter(inputs))
    drawn = []
    for index in range(requests):
        contents = {}
        for name, popularity in inputs.items():
            rank = int(ranks[leader if joint[index] else name][index]) % popularity.contents
            contents[name] = (
                Content("sample", str(rank)) if popularity.samples else Content("hash", f"{name}-{rank}"),
            )
        drawn.append(Request(round(float(times[index]), 6), contents))
    return tuple(drawn)
