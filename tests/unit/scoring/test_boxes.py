"""Mean average precision of boxes, against the figures of pycocotools 2.0.11 on the same boxes."""

from pathlib import Path

import numpy as np
import pytest

from mmdeploy.core.errors import DataError
from mmdeploy.data.labels import stacked_labels
from mmdeploy.scoring.metric_spec import spec_of
from mmdeploy.scoring.task_metric import open_metric

SAMPLES, QUERIES = 12, 15
#: stats[0] and stats[1] of COCOeval on `detections(seed)`.
COCO = {
    0: (0.0863101825994187, 0.2092572243734767), 1: (0.08032831979211208, 0.17328320248968415),
    2: (0.08452081194933415, 0.2103679745761475), 3: (0.0546634990224396, 0.17777067768476768),
}  # fmt: skip


def detections(seed):
    """Boxes near the true ones and elsewhere, some of the wrong class; scores of odd seeds have ties."""
    rng = np.random.default_rng(seed)
    truth, boxes = [], np.zeros((SAMPLES, QUERIES, 4))
    classes = rng.integers(0, 4, (SAMPLES, QUERIES))
    scores = rng.random((SAMPLES, QUERIES)).round(2 if seed % 2 else 6)
    for row in range(SAMPLES):
        objects = rng.integers(0, 5)
        corner, size = rng.random((objects, 2)) * 50, rng.random((objects, 2)) * 30 + 2
        true, of_class = np.concatenate([corner, corner + size], 1), rng.integers(0, 4, objects)
        truth.append({"boxes": true, "classes": of_class})
        corner, size = rng.random((QUERIES, 2)) * 50, rng.random((QUERIES, 2)) * 30 + 2
        boxes[row] = np.concatenate([corner, corner + size], 1)
        for query in range(min(objects * 2, QUERIES)):
            boxes[row, query] = true[query % objects] + rng.normal(0, 2, 4)
            boxes[row, query, 2:] = np.maximum(boxes[row, query, 2:], boxes[row, query, :2] + 1)
            classes[row, query] = of_class[query % objects] if rng.random() < 0.8 else classes[row, query]
    return {"boxes": boxes, "scores": scores, "classes": classes}, stacked_labels(truth, "f")


def scored(outputs, labels, **arguments):
    spec = spec_of("box_map", tuple(outputs), outputs=tuple(outputs), arguments=arguments)
    return open_metric(spec, Path()).scored(outputs, labels)


@pytest.mark.parametrize("seed", COCO)
def test_it_is_cocos(seed):
    outputs, labels = detections(seed)
    found = (scored(outputs, labels).score, scored(outputs, labels, overlaps=[0.5]).score)
    assert found == pytest.approx(COCO[seed], abs=1e-9)


def test_scores_of_classes_are_the_same_as_the_best_class():
    outputs, labels = detections(0)
    spread = np.zeros((SAMPLES, QUERIES, 4))
    np.put_along_axis(spread, outputs["classes"][..., None], outputs["scores"][..., None], axis=2)
    both = {"boxes": outputs["boxes"], "scores": spread}
    assert scored(both, labels).score == pytest.approx(COCO[0][0])


def test_a_sample_drawn_twice_counts_twice():
    outputs, labels = detections(0)
    rows = np.array([3, 3, 1, 0, 7, 7, 7, 2, 4, 5, 11, 9])
    again = scored({name: array[rows] for name, array in outputs.items()}, labels[rows])
    assert scored(outputs, labels).of(rows[None])[0] == pytest.approx(again.score)


def test_exact_boxes_are_all_found_and_samples_without_boxes_are_fine():
    true = np.array([[[0, 0, 4, 4], [5, 5, 9, 9]], [[0, 0, 1, 1], [0, 0, 1, 1]]], dtype=np.float32)
    outputs = {"boxes": true, "scores": np.array([[0.9, 0.8], [0.1, 0.05]]), "classes": np.array([[1, 2], [1, 1]])}
    truth = [{"boxes": true[0], "classes": np.array([1, 2])}, {"boxes": np.zeros((0, 4)), "classes": np.zeros(0, int)}]
    assert scored(outputs, stacked_labels(truth, "f")).score == 1.0


@pytest.mark.parametrize(
    ("change", "labels", "message"),
    [
        ({"scores": np.zeros((2, 3))}, None, "box_map takes boxes"),
        ({"classes": np.zeros((2, 2))}, None, "box_map takes boxes"),
        (
            {},
            stacked_labels([{"boxes": np.zeros((1, 4))}] * 2, "f"),
            "labels with 'boxes' .* found mappings with 'boxes'",
        ),
        ({}, stacked_labels([{"boxes": np.zeros((1, 4)), "classes": [1, 2]}] * 2, "f"), "labels with 'boxes'"),
        ({}, stacked_labels([{"boxes": np.zeros((0, 4)), "classes": np.zeros(0, int)}] * 2, "f"), "hold no box"),
    ],
)
def test_what_it_cannot_take_is_said(change, labels, message):
    outputs = {"boxes": np.ones((2, 2, 4)), "scores": np.ones((2, 2)), "classes": np.ones((2, 2), int)} | change
    right = stacked_labels([{"boxes": np.ones((1, 4)), "classes": [1]}] * 2, "f")
    with pytest.raises(DataError, match=message):
        scored(outputs, right if labels is None else labels)
