"""Mean intersection over union of dense outputs: a class for each pixel, voxel or frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels, Ragged, kind
from mmdeploy.core.samples import column_of, flat, is_ragged
from mmdeploy.scoring import ragged
from mmdeploy.scoring.arguments import Iou
from mmdeploy.scoring.metrics import FloatArray
from mmdeploy.scoring.scored import Scored, tallied

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def mean_iou(outputs: Array, labels: Labels, arguments: Iou) -> Scored:
    """Score the intersections over the unions, each summed over all samples, a mean over the classes that occur.

    Args:
        outputs: Scores [samples, classes, ...], class ids [samples, ...], or with a threshold one score a place.
        labels: Class ids [samples, ...].
        arguments: Of the metric.
    """
    import numpy as np

    answers, classes = _answers_of_each(outputs, arguments) if is_ragged(outputs) else _answers(outputs, arguments)
    wanted = column_of([np.asarray(one) for one in labels]) if isinstance(labels, np.ndarray | Ragged) else None
    if wanted is None or not ragged.same_shapes(answers, wanted) or flat(wanted).dtype.kind not in "iub":
        raise DataError(
            f"iou takes one class id a place, {ragged.sample_shape(answers)} a sample, found {kind(labels)}",
            hint="the class axis of scores is axis 1; labels have none",
        )
    tallies = np.empty((len(labels), 2 * classes))
    for row in range(len(labels)):
        tallies[row] = _sample(answers[row].ravel(), wanted[row].ravel().astype(np.int64), classes, row, arguments)
    first = 1 if arguments.threshold is not None else 0

    def finish(sums: FloatArray) -> FloatArray:
        common, union = sums[:, first:classes], sums[:, classes + first :]
        present = union > 0
        ratios = np.where(present, common / np.maximum(union, 1.0), 0.0)
        return np.asarray(ratios.sum(axis=1) / np.maximum(present.sum(axis=1), 1))

    if not tallies[:, classes + first :].any():
        raise DataError("iou: neither the labels nor the answers hold a place that is judged")
    return tallied(tallies, finish)


def _answers_of_each(outputs: Array, arguments: Iou) -> tuple[Array, int]:
    """Return the same of samples that are not alike."""
    found = [_answers(one[None], arguments) for one in outputs]
    classes = {count for _, count in found}
    if len(classes) > 1:
        raise DataError(f"iou: the number of classes differs from sample to sample: {sorted(classes)}")
    return column_of([places[0] for places, _ in found]), classes.pop()


def _answers(outputs: Array, arguments: Iou) -> tuple[npt.NDArray[np.int64], int]:
    """Return the class of each place, and how many classes there are."""
    import numpy as np

    if arguments.threshold is not None:
        places = outputs[:, 0] if outputs.ndim > 2 and outputs.shape[1] == 1 else outputs
        return (places > arguments.threshold).astype(np.int64), 2
    if outputs.dtype.kind == "f":
        if outputs.ndim < 3 or outputs.shape[1] < 2:
            raise DataError(
                f"iou takes scores [samples, classes, ...], found {list(outputs.shape)}",
                hint="for one score a place, give `threshold` in arguments",
            )
        return outputs.argmax(axis=1).astype(np.int64), outputs.shape[1]
    if arguments.classes is None:
        raise DataError("iou: the output is class ids", hint="say how many `classes` there are in arguments")
    return outputs.astype(np.int64), arguments.classes


def _sample(
    answers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int, row: int, arguments: Iou
) -> FloatArray:
    """Return intersection and union of each class in one sample."""
    import numpy as np

    judged = labels != arguments.ignore if arguments.ignore is not None else np.ones(labels.shape, dtype=bool)
    answers, labels = answers[judged], labels[judged]
    for what, ids in (("has label", labels), ("is answered with class", answers)):
        if len(ids) and (ids.min() < 0 or ids.max() >= classes):
            wrong = ids[(ids < 0) | (ids >= classes)][0]
            raise DataError(
                f"sample {row} {what} {wrong}, but the classes are 0 to {classes - 1}",
                hint="name what is not judged with `ignore` in arguments",
            )
    common = np.bincount(labels[labels == answers], minlength=classes)
    union = np.bincount(labels, minlength=classes) + np.bincount(answers, minlength=classes) - common
    return np.asarray(np.concatenate([common, union]), dtype=np.float64)
