"""Random samples; the label of a sample is what the model itself answers, so FP32 scores 1."""

from collections.abc import Iterator

import numpy as np


def _samples(seed: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {"values": random.standard_normal(16).astype(np.float32)}


def _labelled(seed: int, count: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    import torch
    from model import build

    model = build()
    for feed in _samples(seed, count):
        with torch.inference_mode():
            yield feed, int(model.head(model.tower(torch.from_numpy(feed["values"])[None])).argmax())


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Yield 64 unlabelled samples."""
    return _samples(1, 64)


def validation() -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield 200 samples with labels."""
    return _labelled(2, 200)


def training() -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield 256 samples with labels."""
    return _labelled(4, 256)


def evaluation() -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield 128 samples with labels."""
    return _labelled(3, 128)
