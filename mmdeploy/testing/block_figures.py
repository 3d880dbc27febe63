"""How like a block's forms are to the block, in figures, and in the classes of these that a table can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmdeploy.core.artifact import Array

#: Largest difference of a form in floating point, relative to the largest value of the output.
EXACT = 1e-3
#: What a table says of a cosine: the first that it is clearly above.
_CLASSES = (0.9999, 0.999, 0.99, 0.98, 0.95, 0.9, 0.8)
#: Another processor rounds otherwise: a class is written where the distance from 1 is at most this share of the
#: class's own, and holds up to this multiple of it.
_CLEARLY, _STILL = 0.7, 1.4


@dataclass(frozen=True)
class Figure:
    """What became of one form of a block.

    Attributes:
        value: The worst of its outputs; None where it was refused or does not apply, or there is nothing to compare.
        text: What a table says: a class, a share, ``built``, ``refused`` or ``-``.
        reason: Why there is no figure: the engine's own words.
    """

    value: float | None
    text: str
    reason: str = ""


@dataclass(frozen=True)
class BlockRow:
    """What became of a block, by form."""

    name: str
    figures: Mapping[str, Figure] = field(default_factory=dict)


def apart(reference: Array, answer: Array) -> float:
    """Return the largest difference of two arrays, relative to the largest value of the first; of integers 0 or 1."""
    import numpy as np

    if reference.shape != answer.shape:
        return float("inf")
    if reference.dtype.kind != "f":
        return 0.0 if np.array_equal(reference, answer) else 1.0
    difference = np.abs(reference.astype(np.float64) - answer).max(initial=0.0)
    return float(difference / max(float(np.abs(reference).max(initial=0.0)), 1e-9))


def cosine(reference: Array, answer: Array) -> float:
    """Return the cosine of two arrays as a whole; of integers the share that are equal."""
    import numpy as np

    if reference.shape != answer.shape:
        return -1.0
    if reference.dtype.kind != "f":
        return float(np.mean(reference == answer))
    one, other = reference.astype(np.float64).ravel(), answer.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else float(np.array_equal(one, other))


def exact(value: float) -> Figure:
    """Return the figure of a form in floating point."""
    return Figure(value, f"≤ {EXACT:g}")


def alike(value: float) -> Figure:
    """Return the figure of a form in INT8, with its class."""
    found = [one for one in _CLASSES if 1 - value <= _CLEARLY * (1 - one)]
    return Figure(value, f"≥ {found[0]:g}" if found else f"{value:.1f}")


def still_holds(text: str, figure: Figure) -> bool:
    """Say whether what a table says of a form is still so."""
    if text.startswith("≥ ") and figure.text.startswith("≥ ") and figure.value is not None:
        return 1 - figure.value <= _STILL * (1 - float(text.removeprefix("≥ ")))
    return text == figure.text
