"""Samples of one size: cut where they are too large, padded where they are too small, and still within their range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmdeploy.core.artifact import Array


def padded(array: Array, shape: Sequence[int], span: tuple[float, float] | None) -> Array:
    """Return a sample cut or padded to a shape, with 0 or what is next to it in the declared range."""
    low, high = span or (0, 0)
    filled = np.full(shape, min(max(0, low), high), dtype=array.dtype)
    kept = tuple(slice(min(have, want)) for have, want in zip(array.shape, shape, strict=True))
    filled[kept] = array[kept]
    return filled
