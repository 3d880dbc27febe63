"""Tones with noise, half a second to ten."""

from collections.abc import Iterator

import numpy as np

SECONDS = (0.5, 10.0, 0.83, 2.7)


def _sounds(seed: int) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    for seconds in SECONDS:
        time = np.arange(int(16000 * seconds)) / 16000
        tone = np.sin(2 * np.pi * random.uniform(80, 3000) * time) + 0.3 * random.standard_normal(len(time))
        yield {"sound": (tone / 2).clip(-1, 1).astype(np.float32)}


def evaluation() -> Iterator[dict[str, np.ndarray]]:
    """Yield 4 sounds."""
    return _sounds(2)
