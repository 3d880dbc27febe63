"""Metrics of class scores, shape [samples, classes]: top1, top5, f1_macro, auroc, worst_class_recall, map.

top1, f1_macro and worst_class_recall also take classes that something has decided on, integers of shape [samples] or
[samples, 1], such as a step of postprocess gives.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels, Ragged, Texts, kind
from mmdeploy.scoring.metrics import FloatArray
from mmdeploy.scoring.scored import Scored, mean_of, one_by_one, tallied

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]


def top_k(metric: str, outputs: Array, labels: Labels, guesses: int) -> Scored:
    """Score whether the label is among the ``guesses`` classes that score highest; labels are class ids."""
    import numpy as np

    outputs = decided(outputs, labels) if guesses == 1 else outputs
    ids = class_ids(metric, outputs, labels)
    if outputs.shape[1] < guesses:
        raise DataError(f"{metric} needs at least {guesses} classes, the model has {outputs.shape[1]}: use top1")
    # Of NumPy, as torchmetrics counts: with torch it would take longer to import than a small build takes to be judged.
    if guesses == 1:
        return mean_of((outputs.argmax(axis=1) == ids).astype(np.float64))
    own = np.take_along_axis(outputs, ids[:, None], axis=1)
    earlier = np.arange(outputs.shape[1]) < ids[:, None]  # of equal scores the first counts
    before = ((outputs > own) | ((outputs == own) & earlier)).sum(axis=1)
    return mean_of(((before < guesses) & ~np.isnan(own[:, 0])).astype(np.float64))


def f1_macro(outputs: Array, labels: Labels) -> Scored:
    """Score the mean of F1 over the classes that occur in labels or answers; labels are class ids."""
    import numpy as np

    outputs = decided(outputs, labels)
    ids, classes = class_ids("f1_macro", outputs, labels), outputs.shape[1]
    wanted, answered = np.eye(classes)[ids], np.eye(classes)[outputs.argmax(axis=1)]

    def mean(sums: FloatArray) -> FloatArray:
        hits, counts = sums[:, :classes], sums[:, classes:]  # a class's F1 is 2 hits / (wanted + answered)
        occurs = counts > 0
        return np.asarray((2 * hits / np.maximum(counts, 1)).sum(axis=1) / occurs.sum(axis=1))

    return tallied(np.concatenate([wanted * answered, wanted + answered], axis=1), mean)


def auroc(outputs: Array, labels: Labels) -> Scored:
    """Score the area under the ROC curve of each class against the rest, a mean over the classes that occur."""
    import numpy as np
    import torch
    from torchmetrics.functional.classification import multiclass_auroc

    ids = class_ids("auroc", outputs, labels)
    if len(np.unique(ids)) < 2:
        raise DataError("auroc needs samples of at least two classes, the labels hold one")
    predictions, target, classes = _tensor(outputs), torch.from_numpy(ids), outputs.shape[1]
    distributed = bool((predictions >= 0).all()) and bool((predictions.sum(dim=1) - 1).abs().max() < 1e-4)
    predictions = predictions if distributed else predictions.softmax(dim=1)

    def score(rows: npt.NDArray[np.intp]) -> float:
        chosen = _rows(rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that do not occur: they are left out of the mean
            areas = multiclass_auroc(
                predictions[chosen], target[chosen], classes, average="none", validate_args=False
            )  # fmt: skip
        present = torch.bincount(target[chosen], minlength=classes) > 0
        return float(areas[present].mean())

    return one_by_one(score, len(target))


def worst_class_recall(outputs: Array, labels: Labels) -> Scored:
    """Score the recall of the class that has the lowest, of those that occur; labels are class ids."""
    import numpy as np

    outputs = decided(outputs, labels)
    ids, classes = class_ids("worst_class_recall", outputs, labels), outputs.shape[1]
    of_class = np.eye(classes)[ids]
    right = (outputs.argmax(axis=1) == ids)[:, None] * of_class
    found, present = right.sum(axis=0), of_class.sum(axis=0)
    worst = int(np.where(present > 0, found / np.maximum(present, 1), np.inf).argmin())
    note = f"class {worst} has the lowest recall: {int(found[worst])} of its {int(present[worst])} samples"

    def lowest(sums: FloatArray) -> FloatArray:
        hits, samples = sums[:, :classes], sums[:, classes:]
        return np.asarray(np.where(samples > 0, hits / np.maximum(samples, 1), np.inf).min(axis=1))

    return tallied(np.concatenate([right, of_class], axis=1), lowest, note)


def mean_average_precision(outputs: Array, labels: Labels) -> Scored:
    """Score the mean over classes of average precision, of those that occur.

    Average precision is that of scikit-learn: the sum over thresholds of precision times the gain in recall, without
    interpolation. Labels are the classes of each sample: ids in a list or an array of varying length, a row of 0 and 1
    a class, or one id.
    """
    import numpy as np

    positive = _positives(outputs, labels)
    if not positive.any():
        raise DataError("map needs a sample of at least one class, the labels hold none")
    scores = outputs.astype(np.float64)
    order = np.argsort(-scores, axis=0, kind="stable")
    sorted_scores = np.take_along_axis(scores, order, axis=0)
    sorted_positive = np.take_along_axis(positive, order, axis=0)
    last = np.ones_like(sorted_positive)  # the last of the samples with the same score is where a threshold lies
    last[:-1] = sorted_scores[:-1] != sorted_scores[1:]

    def score(rows: npt.NDArray[np.intp]) -> float:
        weight = np.bincount(rows, minlength=len(scores)).astype(np.float64)[order]
        hits, taken = np.cumsum(weight * sorted_positive, axis=0), np.cumsum(weight, axis=0)
        recalls = [hits[last[:, index], index] for index in range(hits.shape[1])]
        areas = []
        for index, found in enumerate(recalls):
            if found[-1] > 0:
                precision = found / np.maximum(taken[last[:, index], index], 1.0)
                areas.append(float((np.diff(found, prepend=0.0) / found[-1] * precision).sum()))
        return float(np.mean(areas)) if areas else float("nan")

    return one_by_one(score, len(scores))


def decided(outputs: Array, labels: Labels) -> Array:
    """Return class scores as they are, and classes that were decided on as scores: 1 for the class, 0 for the others.

    Raises:
        DataError: If a class that was decided on is below 0.
    """
    import numpy as np

    if outputs.dtype.kind not in "iu" or outputs.ndim not in (1, 2) or outputs.size != len(outputs):
        return outputs
    ids = outputs.reshape(-1).astype(np.int64)
    wrong = np.flatnonzero(ids < 0)
    if len(wrong):
        raise DataError(f"sample {wrong[0]} is answered {ids[wrong[0]]}, and classes are numbered from 0")
    known = labels.max() if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.size else 0
    return np.asarray(np.eye(max(2, int(ids.max(initial=0)) + 1, int(known) + 1))[ids])


def class_ids(metric: str, outputs: Array, labels: Labels) -> Ids:
    """Return labels that are one class id a sample.

    Raises:
        DataError: If the output is no class scores, or labels are no ids of these classes.
    """
    import numpy as np

    check_scores(metric, outputs)
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        found = f"labels of shape {list(labels.shape)} and type {labels.dtype}" if isinstance(labels, np.ndarray) else (
            kind(labels)
        )  # fmt: skip
        raise DataError(f"{metric} takes one integer class id a sample, found {found}")
    _check_ids(labels, outputs.shape[1])
    return labels.astype(np.int64)


def check_scores(metric: str, outputs: Array) -> None:
    """Check that an output is one score a class.

    Raises:
        DataError: If it is not.
    """
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise DataError(f"{metric} takes one score a class, shape [samples, classes], found {list(outputs.shape)}")


def _check_ids(ids: Array, classes: int) -> None:
    import numpy as np

    wrong = np.flatnonzero((ids < 0) | (ids >= classes))
    if len(wrong):
        raise DataError(
            f"sample {wrong[0]} has label {ids[wrong[0]]}, but the model's {classes} classes are 0 to {classes - 1}"
        )


def _positives(outputs: Array, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return which classes each sample is of, shape [samples, classes]."""
    import numpy as np

    check_scores("map", outputs)
    samples, classes = outputs.shape
    if isinstance(labels, Ragged) and not isinstance(labels.values, Texts) and labels.values.dtype.kind in "iu":
        positive = np.zeros((samples, classes), dtype=bool)
        for row, ids in enumerate(labels):
            wrong = [one for one in ids if not 0 <= int(one) < classes]
            if wrong:
                raise DataError(f"sample {row} has label {wrong[0]}, but the model's classes are 0 to {classes - 1}")
            positive[row, np.asarray(ids, dtype=np.int64)] = True
        return positive
    if isinstance(labels, np.ndarray) and labels.shape == outputs.shape and np.isin(labels, (0, 1)).all():
        return labels.astype(bool)
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        return np.eye(classes, dtype=bool)[class_ids("map", outputs, labels)]
    raise DataError(
        f"map takes the classes of each sample, found {kind(labels)}",
        hint=f"give class ids in a list, or a row of {classes} zeros and ones",
    )


def _tensor(outputs: Array) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(outputs.astype(np.float64))


def _rows(rows: npt.NDArray[np.intp]) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(rows))
