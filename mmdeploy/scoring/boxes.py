"""Mean average precision of detection, as COCO counts it: boxes that overlap enough with one of their class.

A detector of a fixed number of queries a sample puts out boxes [samples, queries, 4], as corners x1 y1 x2 y2, and
either scores [samples, queries] and class ids [samples, queries], or scores [samples, queries, classes], of which the
best class of a query counts. A label holds the true ``boxes`` [objects, 4] and their ``classes`` [objects].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels, Ragged, Table, Texts, kind
from mmdeploy.scoring.arguments import BoxMap
from mmdeploy.scoring.metrics import FloatArray
from mmdeploy.scoring.scored import Scored, one_by_one

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Places on the recall axis at which precision is read.
_RECALLS = 101


@dataclass(frozen=True)
class _Detections:
    """The detections of one class in one sample, the best first.

    Attributes:
        scores: Of each.
        hits: Whether each takes a true box of its own, shape [thresholds, detections].
        objects: True boxes of the class.
    """

    scores: FloatArray
    hits: npt.NDArray[np.bool_]
    objects: int


def mean_average_precision(outputs: Sequence[Array], labels: Labels, arguments: BoxMap) -> Scored:
    """Score precision, read at 101 recalls, as a mean over classes that occur and over the overlaps that count."""
    import numpy as np

    boxes, scores, classes = _outputs(outputs)
    true_boxes, true_classes = _labels(labels)
    thresholds = np.array(arguments.overlaps)
    samples = [
        _matched(
            boxes[row],
            scores[row],
            classes[row],
            (true_boxes[row], true_classes[row]),
            thresholds=thresholds,
            most=arguments.most,
        )
        for row in range(len(boxes))
    ]
    if not any(one.objects for found in samples for one in found.values()):
        raise DataError("box_map: the labels hold no box")

    def score(rows: npt.NDArray[np.intp]) -> float:
        by_class: dict[int, list[_Detections]] = {}
        for row in rows:
            for name, found in samples[row].items():
                by_class.setdefault(name, []).append(found)
        areas = [_average_precision(found) for found in by_class.values() if any(one.objects for one in found)]
        return float(np.mean(areas)) if areas else float("nan")

    return one_by_one(score, len(samples))


def _average_precision(found: Sequence[_Detections]) -> float:
    """Return the average precision of a class, a mean over thresholds."""
    import numpy as np

    objects = sum(one.objects for one in found)
    order = np.argsort(-np.concatenate([one.scores for one in found]), kind="stable")
    hits = np.concatenate([one.hits for one in found], axis=1)[:, order]
    right = np.cumsum(hits, axis=1)
    if not right.shape[1]:
        return 0.0
    recall = right / objects
    precision = right / np.arange(1, right.shape[1] + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    wanted = np.linspace(0.0, 1.0, _RECALLS)
    areas = []
    for recalls, precisions in zip(recall, precision, strict=True):
        places = np.searchsorted(recalls, wanted, side="left")
        areas.append(
            np.where(places < len(precisions), precisions[np.minimum(places, len(precisions) - 1)], 0.0).mean()
        )
    return float(np.mean(areas))


def _matched(
    boxes: Array, scores: Array, classes: Array, truth: tuple[Array, Array], *, thresholds: FloatArray, most: int
) -> dict[int, _Detections]:
    """Match the detections of one sample with its true boxes, class by class: the best first, each box once."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    found = {}
    for name in {*classes[order].tolist(), *truth[1].tolist()}:
        chosen = order[classes[order] == name][:most]
        true = truth[0][truth[1] == name]
        overlap = _overlaps(boxes[chosen], true)
        hits = np.zeros((len(thresholds), len(chosen)), dtype=bool)
        for row, threshold in enumerate(thresholds):
            free = np.ones(len(true), dtype=bool)
            for detection in range(len(chosen)):
                candidates = np.where(free, overlap[detection], -1.0)
                if len(true) and candidates.max() >= threshold:
                    free[candidates.argmax()] = False
                    hits[row, detection] = True
        found[int(name)] = _Detections(scores[chosen].astype(np.float64), hits, len(true))
    return found


def _overlaps(ours: Array, theirs: Array) -> FloatArray:
    """Return intersection over union of boxes, shape [ours, theirs]."""
    import numpy as np

    ours, theirs = ours.astype(np.float64)[:, None], theirs.astype(np.float64).reshape(-1, 4)[None]
    corners = np.maximum(ours[..., :2], theirs[..., :2]), np.minimum(ours[..., 2:], theirs[..., 2:])
    common = np.prod(np.clip(corners[1] - corners[0], 0.0, None), axis=-1)
    areas = [np.prod(np.clip(one[..., 2:] - one[..., :2], 0.0, None), axis=-1) for one in (ours, theirs)]
    union = areas[0] + areas[1] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(union), where=union > 0), dtype=np.float64)


def _outputs(outputs: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Return boxes, the score of each and its class."""
    shapes = [list(array.shape) for array in outputs]
    boxes = outputs[0]
    good = boxes.ndim == 3 and boxes.shape[2] == 4 and all(array.shape[:2] == boxes.shape[:2] for array in outputs)
    if good and len(outputs) == 2 and outputs[1].ndim == 3:
        return boxes, outputs[1].max(axis=2), outputs[1].argmax(axis=2)
    if good and len(outputs) == 3 and outputs[1].ndim == outputs[2].ndim == 2 and outputs[2].dtype.kind in "iu":
        return boxes, outputs[1], outputs[2]
    raise DataError(
        f"box_map takes boxes [samples, queries, 4] and scores [samples, queries, classes], or scores and class ids "
        f"[samples, queries] each, found {' and '.join(map(str, shapes))}",
        hint="name them in this order under `outputs`",
    )


def _labels(labels: Labels) -> tuple[list[Array], list[Array]]:
    import numpy as np

    if isinstance(labels, Table) and set(labels.columns) == {"boxes", "classes"}:
        columns = [labels.columns[name] for name in ("boxes", "classes")]
        if not any(
            isinstance(one, Texts) or (isinstance(one, Ragged) and isinstance(one.values, Texts)) for one in columns
        ):
            boxes, classes = ([np.asarray(one) for one in column] for column in columns)
            lengths = [len(one) if one.size else 0 for one in boxes]
            if all(one.size == 4 * count for one, count in zip(boxes, lengths, strict=True)) and lengths == [
                one.size for one in classes
            ]:
                return [one.reshape(-1, 4) for one in boxes], [one.reshape(-1) for one in classes]
    raise DataError(
        f"box_map takes labels with 'boxes' [objects, 4] and 'classes' [objects], found {kind(labels)}",
        hint="give both for each sample, empty where it shows nothing",
    )
