"""Which samples and which classes a candidate answers differently, for whoever reviews the verdict.

Labels and answers are numbers of classes, as the data gives them; a sample's number is its place in the evaluation
data, from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

from mmdeploy.core.contracts import ReviewTable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mmdeploy.core.artifact import Array
    from mmdeploy.core.labels import Labels
    from mmdeploy.scoring.comparison import Comparison

_MOST_CLASSES = 20
_MOST_SAMPLES = 50


def tables(
    labels: Labels, original: Mapping[str, Array], candidate: Mapping[str, Array], comparison: Comparison
) -> tuple[ReviewTable, ...]:
    """Return what a reviewer asks for first.

    Args:
        labels: One a sample.
        original: What the metric saw of the PyTorch model, by ensemble output: arrays of shape [samples, …].
        candidate: The same of the candidate.
        comparison: Of the metric on both.

    Returns:
        For class scores (one output of shape [samples, classes], labels that number its classes): recall per class, and
        the samples whose class changed. Else the samples that lost most, where the metric gives each a score.
    """
    if len(original) == 1:
        name = next(iter(original))
        if _is_array(labels) and _are_classes(labels, original[name]):
            before, after = original[name].argmax(axis=1), candidate[name].argmax(axis=1)
            return (_class_table(labels, before, after), _changed_table(labels, before, after))
    return _loss_table(comparison, len(labels))


def _is_array(labels: Labels) -> TypeGuard[Array]:
    import numpy as np

    return isinstance(labels, np.ndarray)


def _are_classes(labels: Array, scores: Array) -> bool:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        return False
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f":
        return False
    return bool(labels.min() >= 0 and labels.max() < scores.shape[1])


def _class_table(labels: Array, before: npt.NDArray[np.intp], after: npt.NDArray[np.intp]) -> ReviewTable:
    import numpy as np

    classes, counts = np.unique(labels, return_counts=True)
    rows = []
    for one, count in zip(classes.tolist(), counts.tolist(), strict=True):
        of_class = labels == one
        recall = [float((answers[of_class] == one).mean()) for answers in (before, after)]
        rows.append((str(one), count, *recall, recall[1] - recall[0]))
    rows.sort(key=lambda row: row[-1])
    return ReviewTable(
        "recall per class",
        ("class", "samples", "original", "candidate", "change"),
        tuple(rows[:_MOST_CLASSES]),
        _left_out(len(rows), _MOST_CLASSES, "classes", "those that lost most"),
    )


def _changed_table(labels: Array, before: npt.NDArray[np.intp], after: npt.NDArray[np.intp]) -> ReviewTable:
    import numpy as np

    changed = np.flatnonzero(before != after)
    outcomes = np.where(before == labels, "lost", np.where(after == labels, "won", "wrong before and after"))
    order = sorted(changed.tolist(), key=lambda index: (outcomes[index] != "lost", outcomes[index] != "won", index))
    rows = tuple(
        (str(index), str(labels[index]), str(before[index]), str(after[index]), str(outcomes[index]))
        for index in order[:_MOST_SAMPLES]
    )
    note = _left_out(len(order), _MOST_SAMPLES, "samples", "lost ones first") if rows else "none"
    return ReviewTable(
        "samples whose answer changed", ("sample", "label", "original", "candidate", "outcome"), rows, note
    )


def _loss_table(comparison: Comparison, samples: int) -> tuple[ReviewTable, ...]:
    import numpy as np

    original, candidate = comparison.original.per_unit, comparison.candidate.per_unit
    if original is None or candidate is None or not len(original) == len(candidate) == samples:
        return ()
    losses = original - candidate if comparison.larger_is_better else candidate - original
    lost = np.flatnonzero(losses > 0)
    order = lost[np.argsort(-losses[lost], kind="stable")].tolist()
    rows = tuple(
        (str(index), float(original[index]), float(candidate[index]), float(losses[index]))
        for index in order[:_MOST_SAMPLES]
    )
    note = _left_out(len(order), _MOST_SAMPLES, "samples", "the largest losses first") if rows else "none"
    return (ReviewTable("samples that lost most", ("sample", "original", "candidate", "loss"), rows, note),)


def _left_out(found: int, most: int, what: str, which: str) -> str:
    return f"{most} of {found} {what} shown, {which}" if found > most else ""
