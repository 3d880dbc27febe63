"""Random pairs, labelled by the model itself: what is scored is how often a compressed model agrees with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import clip_pair
import torch
from model import build

Sample = tuple[dict[str, Any], int]


def pairs(count: int, seed: int) -> Iterator[Sample]:
    """Yield random images and texts with the class that the FP32 model gives them."""
    images, texts = clip_pair.feed("image", count, seed), clip_pair.feed("text", count, seed + 1)
    model = build()
    for image, text in zip(images["pixel_values"], texts["input_ids"], strict=True):
        with torch.inference_mode():
            scores = model["head"](
                model["image"](torch.from_numpy(image)[None]), model["text"](torch.from_numpy(text)[None])
            )
        yield {"image": image, "text": text}, int(scores.argmax())


def calibration() -> Iterator[Sample]:
    """Yield 32 pairs."""
    return pairs(32, seed=1)


def validation() -> Iterator[Sample]:
    """Yield 64 pairs."""
    return pairs(64, seed=100)
