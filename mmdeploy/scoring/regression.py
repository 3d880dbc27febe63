"""Errors of outputs that are values: mse and mae, against labels of the output's shape."""

from __future__ import annotations

from typing import Literal

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels, Ragged, kind
from mmdeploy.core.samples import column_of, is_ragged
from mmdeploy.scoring import ragged
from mmdeploy.scoring.metrics import FloatArray
from mmdeploy.scoring.scored import Scored, mean_of


def error(metric: Literal["mse", "mae"], outputs: Array, labels: Labels) -> Scored:
    """Score the mean squared or absolute error of each sample; shapes may differ from sample to sample."""
    import numpy as np
    import torch
    from torchmetrics.functional import mean_absolute_error, mean_squared_error

    if is_ragged(outputs):
        return mean_of(_of_each(metric, outputs, labels))

    if not isinstance(labels, np.ndarray) or labels.shape != outputs.shape:
        found = labels.shape if isinstance(labels, np.ndarray) else kind(labels)
        raise DataError(f"{metric} takes labels of the output's shape {outputs.shape}, found {found}")
    if not np.isfinite(labels.astype(np.float64)).all():
        raise DataError(f"{metric}: the labels hold NaN or Inf")
    compute = {"mse": mean_squared_error, "mae": mean_absolute_error}[metric]
    samples = len(outputs)  # torchmetrics gives one figure a column: a column a sample
    rows = [
        torch.from_numpy(array.astype(np.float64)).reshape(samples, -1).T.contiguous() for array in (outputs, labels)
    ]
    return mean_of(np.asarray(compute(*rows, num_outputs=samples).reshape(samples).numpy(), dtype=np.float64))


def _of_each(metric: Literal["mse", "mae"], outputs: Array, labels: Labels) -> FloatArray:
    """Return the error of each of the samples that are not alike."""
    import numpy as np

    wanted = column_of([np.asarray(one) for one in labels]) if isinstance(labels, np.ndarray | Ragged) else None
    if wanted is None or not ragged.same_shapes(outputs, wanted):
        raise DataError(
            f"{metric} takes labels of the output's shapes, {ragged.sample_shape(outputs)}, found {kind(labels)}"
        )
    alone = (error(metric, one[None], label[None]) for one, label in zip(outputs, wanted, strict=True))
    return np.array([found.score for found in alone])
