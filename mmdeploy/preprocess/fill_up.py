"""Tensors of any length at one length, and masks that say what of it is real.

What it does: fills the axes of a size that varies up to one length, with 0 or what the input's range has nearest to it;
makes masks that are 1 where a value is real. A mask alone leaves the length as it is.
When to choose it: a recipe says it by ``pad_to`` and ``mask`` of a size, and never by this name.
What it needs: NumPy.
Limits: it refuses a length outside the size's bounds, and two lengths for one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .refusal import NUMPY_BY_DTYPE, Array, RefusedError, Spec

#: What becomes of a tensor's name where it is filled up.
PADDED = ".padded"


@dataclass(frozen=True)
class FillUp:
    """Options, and the method itself.

    Attributes:
        sizes: ``min``, ``max``, ``multiple_of`` and ``pad_to`` (None where the length stays) by the size's name.
        axes: By input, the size of each of its axes that varies; the batch is not counted. Its keys are strings, as
            JSON has them.
        fill: By input that is filled up, with what.
        masks: By mask that is made, its size and its type in Triton.
    """

    sizes: Mapping[str, Mapping[str, int | None]]
    axes: Mapping[str, Mapping[str, str]]
    fill: Mapping[str, float]
    masks: Mapping[str, tuple[str, str]]

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        found = {}
        for name in self.fill:
            dtype, shape = given[name]
            if dtype == "BYTES":
                raise ValueError(f"fills up numbers, and {name!r} is BYTES")
            lengths = {int(axis): self.sizes[size]["pad_to"] for axis, size in self.axes[name].items()}
            found[name + PADDED] = Spec(
                dtype, tuple(dim if (to := lengths.get(axis)) is None else to for axis, dim in enumerate(shape))
            )
        for name, (size, dtype) in self.masks.items():
            found[name] = Spec(dtype, (self.sizes[size]["pad_to"] or -1,))
        return found

    def open(self, folder: Path) -> None:
        """Load nothing."""

    def row(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Fill up one sample, and make its masks.

        Raises:
            RefusedError: If a length is none of its size, or a size has two.
        """
        import numpy as np

        lengths = self._lengths(values)
        found: dict[str, Array] = {}
        for name, value in self.fill.items():
            widths = [(0, 0)] * values[name].ndim
            for axis, size in self.axes[name].items():
                widths[int(axis)] = (0, (self.sizes[size]["pad_to"] or lengths[size]) - lengths[size])
            found[name + PADDED] = np.pad(values[name], widths, constant_values=value)
        for name, (size, dtype) in self.masks.items():
            found[name] = (np.arange(self.sizes[size]["pad_to"] or lengths[size]) < lengths[size]).astype(
                NUMPY_BY_DTYPE[dtype]
            )
        return found

    def _lengths(self, values: Mapping[str, Any]) -> dict[str, int]:
        found: dict[str, tuple[int, str]] = {}
        for name, axes in self.axes.items():
            for axis, size in axes.items():
                length, told = values[name].shape[int(axis)], self.sizes[size]
                low, most, step = told["min"] or 1, told["max"] or 1, told["multiple_of"] or 1
                if not low <= length <= most or length % step:
                    steps = f" in steps of {step}" if step > 1 else ""
                    raise RefusedError(
                        f"of a length of {length} ({name}), accepted for {size!r}: {low} to {most}{steps}"
                    )
                other, where = found.setdefault(size, (length, name))
                if other != length:
                    raise RefusedError(f"of two lengths ({name} {length}, {where} {other}): both are {size!r}")
        return {size: length for size, (length, _) in found.items()}
