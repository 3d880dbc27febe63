"""Signals of 1 to 20 steps, each with a tone."""

from collections.abc import Iterator

import numpy as np


def samples(seed: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    for index in range(count):
        signal = random.normal(size=(1 + index % 20, 4)).astype(np.float32)
        yield {"signal": signal, "tone": random.normal(size=3).astype(np.float32)}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    return samples(1, 40)


def evaluation() -> Iterator[dict[str, np.ndarray]]:
    return samples(2, 24)
