"""Random samples; the label of an evaluation sample is what the model itself answers, so FP32 scores 1."""

from collections.abc import Iterator

import numpy as np


def _samples(seed: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {name: random.standard_normal(8).astype(np.float32) for name in ("a", "b")}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Yield 64 unlabelled samples."""
    return _samples(1, 64)


def evaluation() -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield 128 samples with labels."""
    import torch
    from model import build

    model = build().eval()
    for feed in _samples(2, 128):
        with torch.inference_mode():
            left, right = (torch.from_numpy(feed[name])[None] for name in ("a", "b"))
            logits = model.fusion(model.left(left), model.right(right))
        yield feed, int(logits.argmax())
