"""The optimizer and the learning rate of each step: a pure function, so that nothing of it must be saved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mmdeploy.training.options import TrainingOptions

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

#: Parameters with fewer dimensions (biases, norms, quantization scales) are not decayed.
_DECAYED_DIMENSIONS = 2


def optimizer(module: nn.Module, options: TrainingOptions) -> Optimizer:
    """Return the optimizer over the parameters of a module that require a gradient."""
    from torch.optim import SGD, AdamW

    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim >= _DECAYED_DIMENSIONS]
    others = [parameter for parameter in trained if parameter.ndim < _DECAYED_DIMENSIONS]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "sgd":
        return SGD(groups, lr=options.learning_rate, momentum=options.sgd_momentum)
    return AdamW(groups, lr=options.learning_rate)


def learning_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """Return the learning rate of step ``step`` (from 0) of ``steps``.

    It rises in a straight line over the warm-up, then follows half a cosine to zero (Loshchilov and Hutter, "SGDR",
    2017, without restarts) or stays.
    """
    warmup = math.ceil(options.warmup * steps)
    if step < warmup:
        return options.learning_rate * (step + 1) / (warmup + 1)
    if options.schedule == "constant":
        return options.learning_rate
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
