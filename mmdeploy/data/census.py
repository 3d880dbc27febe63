"""Figures of one input over a whole set of samples, taken while they stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from mmdeploy.core.artifact import Array


@dataclass
class Census:
    """Smallest, largest and mean value of an input, and its sizes.

    Attributes:
        elements: Number of values seen.
        minimum: The smallest value; infinite before the first.
        maximum: The largest value; minus infinite before the first.
        sizes: Smallest and largest size of each axis.
    """

    elements: int = 0
    minimum: float = field(default=math.inf)
    maximum: float = field(default=-math.inf)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    _total: float = 0.0

    def add(self, array: Array) -> None:
        """Count a sample."""
        before = self.sizes or [(size, size) for size in array.shape]
        self.sizes = [(min(low, size), max(high, size)) for (low, high), size in zip(before, array.shape, strict=True)]
        if array.dtype == object:  # of strings their lengths are told
            array = np.array([len(one) for one in array.ravel().tolist()])
        if array.size:
            self.elements += array.size
            self._total += float(array.sum(dtype="float64"))
            self.minimum = min(self.minimum, float(array.min()))
            self.maximum = max(self.maximum, float(array.max()))

    def to_metadata(self) -> dict[str, object]:
        """Return the figures as JSON values; a size that varies as smallest and largest."""
        shape = [low if low == high else [low, high] for low, high in self.sizes]
        if not self.elements:
            return {"shape": shape}
        mean = self._total / self.elements
        return {"shape": shape, "minimum": self.minimum, "maximum": self.maximum, "mean": mean}
