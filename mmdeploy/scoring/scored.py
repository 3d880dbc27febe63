"""A model's answers, scored: the figure over all samples, and what its interval is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core.errors import DataError
from mmdeploy.scoring.metrics import FloatArray

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Scored:
    """One model's answers, scored.

    A *unit* is what was drawn independently: mostly a sample; a query where several samples belong to one.

    Attributes:
        score: The metric over all samples.
        units: How many units there are.
        of: Takes draws of units' indices, shape [draws, units], and gives the metric of each draw.
        per_unit: The metric of each unit, of which ``score`` is the mean; None where it is no such mean.
        note: What a reader of the score must know, such as the class that is worst.
    """

    score: float
    units: int
    of: Callable[[npt.NDArray[np.intp]], FloatArray]
    per_unit: FloatArray | None = None
    note: str = ""


def mean_of(per_unit: FloatArray) -> Scored:
    """Return the score that is the mean of one figure a unit."""
    import numpy as np

    return Scored(
        float(per_unit.mean()), len(per_unit), lambda draws: np.asarray(per_unit[draws].mean(axis=1)), per_unit
    )


def tallied(tallies: FloatArray, finish: Callable[[FloatArray], FloatArray], note: str = "") -> Scored:
    """Return a score that is a function of sums over samples, such as edits over words.

    Args:
        tallies: What each sample adds, shape [samples, sums].
        finish: Takes sums, shape [draws, sums], and gives the metric of each draw.
        note: What a reader must know.
    """
    import numpy as np

    def of(draws: npt.NDArray[np.intp]) -> FloatArray:
        counts = np.stack([np.bincount(rows, minlength=len(tallies)) for rows in draws])
        return np.asarray(finish(counts.astype(np.float64) @ tallies), dtype=np.float64)

    score = float(finish(tallies.sum(axis=0, dtype=np.float64)[None])[0])
    return Scored(score, len(tallies), of, note=note)


def one_by_one(score: Callable[[npt.NDArray[np.intp]], float], units: int, note: str = "") -> Scored:
    """Return a score that must be computed anew for each draw.

    Args:
        score: Takes the drawn units' indices, shape [units], and gives the metric.
        units: How many units there are.
        note: What a reader must know.
    """
    import numpy as np

    def of(draws: npt.NDArray[np.intp]) -> FloatArray:
        return np.array([score(rows) for rows in draws], dtype=np.float64)

    return Scored(score(np.arange(units)), units, of, note=note)


def check_count(answers: int, labels: int) -> None:
    """Check that there is a label a sample.

    Raises:
        DataError: If there is not.
    """
    if answers != labels:
        raise DataError(f"the evaluation data has {answers} samples but {labels} labels")
