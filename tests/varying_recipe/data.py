"""Sentences of 1 to 12 tokens and sounds of 16 to 64 samples, in steps of 4."""

import numpy as np


def _samples(seed, count):
    random = np.random.default_rng(seed)
    for _ in range(count):
        tokens, samples = random.integers(1, 13), 4 * random.integers(8, 17)
        yield {
            "ids": random.integers(0, 30, tokens),
            "mask": np.ones(tokens, np.int64),
            "wave": random.standard_normal(samples).astype(np.float32),
        }


def calibration():
    return _samples(1, 24)


def evaluation():
    return _samples(2, 24)
