"""Figures of columns whose samples need not be alike; see `mmdeploy.core.samples`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array
from mmdeploy.core.samples import alike, finite, flat, is_ragged, shapes_of
from mmdeploy.scoring.metrics import FloatArray

__all__ = ["finite", "flat", "per_sample", "same_shapes", "sample_shape", "zeroed"]

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def per_sample(figure: Callable[[Array, Array], FloatArray], reference: Array, candidate: Array) -> FloatArray:
    """Return a figure of each sample; NaN where the reference has none.

    Args:
        figure: Of two arrays with samples along axis 0.
        reference: A column.
        candidate: A column with the same shapes.
    """
    import numpy as np

    if not is_ragged(reference) and not is_ragged(candidate):
        return figure(reference, candidate)
    found = np.full(len(reference), np.nan)
    for rows, expected in alike(reference):
        found[rows] = figure(expected, np.stack(list(candidate[rows])))
    return found


def same_shapes(one: Array, other: Array) -> bool:
    """Say whether each sample of a column has the shape that it has in the other."""
    if not is_ragged(one) and not is_ragged(other):
        return one.shape == other.shape
    return list(shapes_of(one)) == list(shapes_of(other))


def zeroed(column: Array, rows: npt.NDArray[np.bool_]) -> Array:
    """Return a column with zeros in some of its samples."""
    import numpy as np

    if not rows.any():
        return column
    if is_ragged(column):
        changed = column.copy()
        for row in np.flatnonzero(rows).tolist():
            changed[row] = np.zeros_like(column[row])
        return changed
    return np.where(rows.reshape(-1, *[1] * (column.ndim - 1)), np.zeros_like(column), column)


def sample_shape(column: Array) -> str:
    """Return the shape of a sample as words; that of the smallest and the largest where they differ."""
    shapes = sorted({shape for shape in shapes_of(column) if shape is not None})
    if not shapes:
        return "none"
    return str([*shapes[0]]) if len(shapes) == 1 else f"{[*shapes[0]]} to {[*shapes[-1]]}"
