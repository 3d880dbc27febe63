"""More ways to compare answers, each chosen by what an output is: scale, exact match, overlap at k; and its noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array
from mmdeploy.scoring import metrics, ragged
from mmdeploy.scoring.metrics import FloatArray, rows_of, unit_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def per_sample_scale_error(reference: Array, candidate: Array) -> FloatArray:
    """Return how far each sample's ratio of norms, candidate over reference, is from 1.

    Two zero vectors agree; a reference of zeros against anything else gives the largest finite number, as JSON has no
    infinity.
    """
    import numpy as np

    _, ref_log = unit_rows(rows_of(reference))
    _, cand_log = unit_rows(rows_of(candidate))
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = np.power(10.0, np.minimum(cand_log - ref_log, 300.0))
    ratio = np.where(np.isneginf(ref_log) & np.isneginf(cand_log), 1.0, ratio)
    return np.asarray(np.abs(ratio - 1.0), dtype=np.float64)


def per_sample_norm_error(reference: Array, candidate: Array) -> FloatArray:
    """Return by how much each sample's norm differs, as a share of its norm or of the norms' root mean square.

    The larger of the two is what it is a share of: a sample near zero, where any rounding is a multiple, is judged by
    the size that the output has in general.
    """
    import numpy as np

    norms = [ragged.per_sample(_norms, array, array) for array in (reference, candidate)]
    usual = np.sqrt(np.nanmean(np.square(norms[0])))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.abs(norms[1] - norms[0]) / np.maximum(norms[0], usual)
    return np.asarray(np.where(norms[1] == norms[0], 0.0, np.minimum(share, 1e300)), dtype=np.float64)


def _norms(reference: Array, _: Array) -> FloatArray:
    import numpy as np

    return np.asarray(np.linalg.norm(rows_of(reference), axis=1), dtype=np.float64)


def per_sample_equal(reference: Array, candidate: Array) -> FloatArray:
    """Return 1 for each sample whose values are all equal, else 0."""
    import numpy as np

    return np.asarray((rows_of(reference) == rows_of(candidate)).all(axis=1), dtype=np.float64)


def per_sample_equal_text(reference: Array, candidate: Array) -> FloatArray:
    """Return 1 for each sample whose strings are all equal, else 0."""
    import numpy as np

    return np.asarray((reference == candidate).reshape(len(reference), -1).all(axis=1), dtype=np.float64)


def per_sample_overlap(reference: Array, candidate: Array, k: int | None = None) -> FloatArray:
    """Return the share of the k best that each sample has in common with the reference, whatever their order.

    Of integers the best are the first k values, ids in the order of their rank; of other numbers the places of the k
    largest.

    Args:
        reference: Shape [samples, ...].
        candidate: The same shape.
        k: At most what a sample holds; all of it when None.
    """
    import numpy as np

    rows = [np.asarray(array).reshape(len(array), -1) for array in (reference, candidate)]
    most = min(k or rows[0].shape[1], rows[0].shape[1])
    if rows[0].dtype.kind == "f":
        best = [np.argsort(-one, axis=1, kind="stable")[:, :most] for one in rows]
    else:
        best = [one[:, :most] for one in rows]
    pairs = zip(best[0].tolist(), best[1].tolist(), strict=True)
    shares = [len({*ours} & {*theirs}) / max(1, len({*theirs})) for theirs, ours in pairs]
    return np.array(shares, dtype=np.float64)


def output_noise(
    original: Mapping[str, Array], candidate: Mapping[str, Array], broken: npt.NDArray[np.bool_] | None = None
) -> tuple[float, float]:
    """Return the means over samples of SQNR in dB and of cosine, of the first output of floating point that changed.

    Args:
        original: Outputs by name.
        candidate: The same outputs; finite.
        broken: Samples that count as having no signal.

    Returns:
        ``inf`` and 1.0 where no sample changed; else each sample's SQNR is at most `UNCHANGED_DB`.
    """
    import numpy as np

    floats = [name for name, array in original.items() if ragged.flat(array).dtype.kind == "f"] or list(original)
    changed = (name for name in floats if not np.array_equal(ragged.flat(original[name]), ragged.flat(candidate[name])))
    name = next(changed, floats[0])
    sqnr_db = ragged.per_sample(metrics.per_sample_sqnr_db, original[name], candidate[name])
    cosines = ragged.per_sample(metrics.per_sample_cosine, original[name], candidate[name])
    if broken is not None:
        sqnr_db, cosines = np.where(broken, -np.inf, sqnr_db), np.where(broken, 0.0, cosines)
    if not np.isposinf(sqnr_db).all():
        sqnr_db = np.minimum(sqnr_db, metrics.UNCHANGED_DB)
    return float(sqnr_db.mean()), float(cosines.mean())
