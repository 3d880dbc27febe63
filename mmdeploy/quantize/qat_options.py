"""What a recipe says about quantization-aware training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmdeploy.quantize.qat_modelopt import Calibrator
from mmdeploy.quantize.scheme import Scheme
from mmdeploy.training.options import TrainingOptions


class Options(TrainingOptions, Scheme):
    """Options of quantization-aware training: those of training, those of the scheme, and these.

    Attributes:
        method: ``qat``.
        epochs: As of training; a few are enough.
        calibrator: How the range of an activation is found before training: ``max``, the largest absolute value;
            ``percentile``, without the largest; ``mse``, where the squared error is smallest. Weights: ``max``.
        percentile: Share of the absolute values kept by ``percentile``, in percent.
        samples: Number of calibration samples used, from the first. Of a module that several components call, what
            each of them gives it counts as one: 256 of a text encoder that is called twice are 128 of the data's.
        learn_scales: Train the scales with the weights (LSQ), instead of keeping them as calibrated.
    """

    method: Literal["qat"] = "qat"
    epochs: Annotated[int, Field(ge=1, description="Passes over the training split, at most.")] = 3
    calibrator: Calibrator = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    samples: Annotated[int, Field(ge=1)] = 256
    learn_scales: bool = False
