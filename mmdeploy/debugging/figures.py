"""How far tensors lie from what they should be, in the words and by the functions of Polygraphy.

SQNR is Polygraphy's ``snr``: the power of the reference over that of the difference, in dB. Every 6 dB are one bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmdeploy.core.artifact import Array

#: Differences that are rounding of single precision, whatever they are relative to.
_NEGLIGIBLE = 1e-9
#: Stands for an answer without any likeness, such as NaN or a signal where none should be.
LOWEST_DB = -150.0


@dataclass(frozen=True)
class Tolerance:
    """How far a tensor may lie from its reference.

    Attributes:
        min_sqnr_db: Smallest SQNR; None where elements are compared.
        rtol: Relative difference of an element that is let pass.
        atol: Absolute difference of an element that is let pass.
    """

    min_sqnr_db: float | None = None
    rtol: float = 0.0
    atol: float = 0.0

    def compare_func(self) -> Any:
        """Return Polygraphy's function that judges by it."""
        from polygraphy.comparator import SimpleCompareFunc, SnrCompareFunc

        if self.min_sqnr_db is not None:
            return SnrCompareFunc(snr_threshold=self.min_sqnr_db)
        return SimpleCompareFunc(rtol=self.rtol, atol=self.atol, check_error_stat="elemwise")

    def arguments(self) -> list[str]:
        """Return the arguments of ``polygraphy run`` that judge by it."""
        if self.min_sqnr_db is not None:
            return ["--compare", "snr", "--snr-threshold", f"{self.min_sqnr_db:g}"]
        return ["--compare", "simple", "--rtol", f"{self.rtol:g}", "--atol", f"{self.atol:g}"]

    def __str__(self) -> str:
        if self.min_sqnr_db is not None:
            return f"at least {self.min_sqnr_db:.3g} dB"
        return f"each element within {self.atol:g}, or {self.rtol:g} of itself"


@dataclass(frozen=True)
class Figures:
    """A tensor against its reference.

    Attributes:
        sqnr_db: Signal to noise; None where they are equal bit for bit.
        cosine: Of the two as vectors.
        max_error: Largest absolute difference.
        magnitude: Largest absolute value of the reference.
        within: Whether it keeps the tolerance.
        finite: Whether it has no NaN or Inf where the reference has none.
    """

    sqnr_db: float | None
    cosine: float
    max_error: float
    magnitude: float
    within: bool
    finite: bool = True

    def worse(self, other: Figures) -> Figures:
        """Return the worse of two batches in each figure."""
        return Figures(
            sqnr_db=min(self.sqnr_db, other.sqnr_db, key=_rank),
            cosine=min(self.cosine, other.cosine),
            max_error=max(self.max_error, other.max_error),
            magnitude=max(self.magnitude, other.magnitude),
            within=self.within and other.within,
            finite=self.finite and other.finite,
        )


def _rank(sqnr_db: float | None) -> float:
    return math.inf if sqnr_db is None else sqnr_db


def measure(reference: Array, answer: Array, tolerance: Tolerance) -> Figures:
    """Compare a tensor with its reference.

    What is not finite in both alike, such as the -inf of a mask, is left out.
    """
    import numpy as np

    if reference.shape != answer.shape:
        return Figures(LOWEST_DB, 0.0, math.inf, _magnitude(reference), within=False)
    if np.array_equal(reference, answer):
        return Figures(None, 1.0, 0.0, _magnitude(reference), within=True)
    wanted, got = _comparable(reference, answer)
    finite = bool(np.isfinite(got).all() or not np.isfinite(wanted).all())
    error = np.abs(wanted - got)
    largest = float(error.max(initial=0.0))
    if finite and largest <= _NEGLIGIBLE:
        return Figures(None if not largest else _sqnr(wanted, got), 1.0, largest, _magnitude(wanted), within=True)
    with np.errstate(all="ignore"):
        within = bool(_judged(tolerance.compare_func(), wanted, got))
        cosine = _judged(_cosine_func(), wanted, got).cosine_similarity
    return Figures(
        sqnr_db=_sqnr(wanted, got),
        cosine=0.0 if math.isnan(cosine) else float(cosine),
        max_error=largest if math.isfinite(largest) else math.inf,
        magnitude=_magnitude(wanted),
        within=within,
        finite=finite,
    )


def _sqnr(wanted: Array, got: Array) -> float | None:
    import numpy as np
    from polygraphy.comparator import SnrCompareFunc

    with np.errstate(all="ignore"):
        sqnr_db = float(_judged(SnrCompareFunc(), wanted, got).snr)
    if sqnr_db == math.inf:
        return None
    return LOWEST_DB if math.isnan(sqnr_db) else max(sqnr_db, LOWEST_DB)


def _judged(compare: Any, wanted: Array, got: Array) -> Any:
    from polygraphy.comparator import IterationResult

    with quiet():
        found = compare(IterationResult({"tensor": wanted}), IterationResult({"tensor": got}))
    return found["tensor"]


def _cosine_func() -> Any:
    from polygraphy.comparator import CosineSimilarityCompareFunc

    return CosineSimilarityCompareFunc()


def _comparable(reference: Array, answer: Array) -> tuple[Array, Array]:
    """Return both as floats, with zeros where they are alike and not finite."""
    import numpy as np

    dtype = np.float64 if reference.dtype.kind in "biu" or reference.dtype == np.float64 else np.float32
    wanted, got = reference.astype(dtype), answer.astype(dtype)
    alike = ~np.isfinite(wanted) & ((wanted == got) | (np.isnan(wanted) & np.isnan(got)))
    if alike.any():
        wanted, got = np.where(alike, 0, wanted), np.where(alike, 0, got)
    return wanted, got


def _magnitude(array: Array) -> float:
    import numpy as np

    finite = np.abs(array[np.isfinite(array)].astype(np.float64)) if array.size else array
    return float(finite.max(initial=0.0))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what Polygraphy logs out of the user's sight."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield


def worst(found: Mapping[int, Figures]) -> int:
    """Return the batch in which a tensor is worst."""
    return min(found, key=lambda batch: (found[batch].within, _rank(found[batch].sqnr_db)))
