"""Score answers against labels with torchmetrics, per sample where the metric is a mean over samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import DataError
from mmdeploy.scoring.metrics import FloatArray

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MetricName = Literal["top1", "accuracy", "top5", "f1_macro", "auroc", "mse", "mae"]
METRICS: tuple[str, ...] = get_args(MetricName)
#: Metrics that count correct answers, and how many guesses each allows.
GUESSES_BY_METRIC = {"top1": 1, "accuracy": 1, "top5": 5}
#: Regression metrics: smaller is better, labels have the output's shape.
ERRORS = ("mse", "mae")


@dataclass(frozen=True)
class Scored:
    """One model's answers, scored.

    Attributes:
        score: The metric over all samples.
        of: Takes draws of sample indices, shape [draws, samples], and gives the metric of each draw.
        per_sample: The metric of each sample, of which ``score`` is the mean; None where it is no such mean.
    """

    score: float
    of: Callable[[npt.NDArray[np.intp]], FloatArray]
    per_sample: FloatArray | None


def check_labels(metric: str, outputs: Array, labels: npt.NDArray[Any]) -> None:
    """Check that labels and outputs are what the metric takes.

    Args:
        metric: One of `METRICS`.
        outputs: What the original gives, shape [samples, classes], or any shape for regression.
        labels: Class ids, shape [samples]; for regression the shape of ``outputs``.

    Raises:
        DataError: Saying what is wrong and what is accepted.
    """
    import numpy as np

    if len(labels) != len(outputs):
        raise DataError(f"the evaluation data has {len(outputs)} samples but {len(labels)} labels")
    if metric in ERRORS:
        if labels.shape != outputs.shape:
            raise DataError(f"{metric} takes labels of the output's shape {outputs.shape}, found {labels.shape}")
        if not np.isfinite(labels.astype(np.float64)).all():
            raise DataError(f"{metric}: the labels hold NaN or Inf")
        return
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise DataError(f"{metric} takes one score a class, shape [samples, classes], found {list(outputs.shape)}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{metric} takes one integer class id a sample, found labels of shape {list(labels.shape)} "
            f"and type {labels.dtype}"
        )
    classes = outputs.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"sample {wrong[0]} has label {labels[wrong[0]]}, but the model's {classes} classes are 0 to {classes - 1}"
        )
    if classes < GUESSES_BY_METRIC.get(metric, 1):
        raise DataError(f"{metric} needs at least 5 classes, the model has {classes}: use top1")
    if metric == "auroc" and len(np.unique(labels)) < 2:
        raise DataError("auroc needs samples of at least two classes, the labels hold one")


def scored(metric: str, outputs: Array, labels: npt.NDArray[Any]) -> Scored:
    """Score finite outputs against labels that `check_labels` accepts."""
    import numpy as np
    import torch

    predictions = torch.from_numpy(outputs.astype(np.float64))
    if metric in ERRORS:
        values = _errors(metric, predictions, torch.from_numpy(labels.astype(np.float64)))
    else:
        target = torch.from_numpy(labels.astype(np.int64))
        if metric not in GUESSES_BY_METRIC:
            return _scored_as_a_set(metric, predictions, target)
        values = _correct(predictions, target, GUESSES_BY_METRIC[metric])
    return Scored(float(values.mean()), lambda draws: np.asarray(values[draws].mean(axis=1)), values)


def _correct(predictions: Any, target: Any, guesses: int) -> FloatArray:
    import numpy as np
    from torchmetrics.functional.classification import multiclass_accuracy

    correct = multiclass_accuracy(
        predictions[:, :, None], target[:, None], num_classes=predictions.shape[1], average="micro",
        top_k=guesses, multidim_average="samplewise",
    )  # fmt: skip
    return np.asarray(correct.numpy(), dtype=np.float64)


def _errors(metric: str, predictions: Any, target: Any) -> FloatArray:
    import numpy as np
    from torchmetrics.functional import mean_absolute_error, mean_squared_error

    error = {"mse": mean_squared_error, "mae": mean_absolute_error}[metric]
    samples = len(predictions)  # torchmetrics gives one figure a column: a column a sample
    rows = [tensor.reshape(samples, -1).T.contiguous() for tensor in (predictions, target)]
    return np.asarray(error(*rows, num_outputs=samples).reshape(samples).numpy(), dtype=np.float64)


def _scored_as_a_set(metric: str, predictions: Any, target: Any) -> Scored:
    import numpy as np
    import torch
    from torchmetrics.functional.classification import multiclass_auroc, multiclass_f1_score

    classes = predictions.shape[1]
    if metric == "auroc":
        sums = predictions.sum(dim=1)
        distributed = bool((predictions >= 0).all()) and bool((sums - 1).abs().max() < 1e-4)
        predictions = predictions if distributed else predictions.softmax(dim=1)

    def score(indices: npt.NDArray[np.intp]) -> float:
        chosen = torch.from_numpy(np.ascontiguousarray(indices))
        preds, labels = predictions[chosen], target[chosen]
        if metric == "f1_macro":
            return float(multiclass_f1_score(preds, labels, classes, average="macro", validate_args=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that do not occur: they are left out of the mean
            areas = multiclass_auroc(preds, labels, classes, average="none", validate_args=False)
        present = torch.bincount(labels, minlength=classes) > 0
        return float(areas[present].mean())

    def of(draws: npt.NDArray[np.intp]) -> FloatArray:
        return np.array([score(indices) for indices in draws])

    return Scored(score(np.arange(len(target))), of, None)
