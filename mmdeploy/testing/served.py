"""A small served ensemble, in process, and the evidence that gates are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.contracts import (
    Deployment,
    Evidence,
    EvidenceCascade,
    EvidenceSubset,
    FeedDict,
    Runner,
    Samples,
    WiredComponent,
)
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.target import this_hardware
from mmdeploy.gates.in_process import InProcessDeployment

CLASSES = 10
REFUSAL = "this model answers nothing"
ABSENCE = "unknown model"
_PART = WiredComponent("only", {"pixels": "image"}, {"logits": "scores"})
_BYTES = 1000
_LEFT_EARLY = "left_early"


class _Classifier:
    """Classes by the nearest corner, or what an ``answer`` makes of it."""

    inputs = (TensorSpec("pixels", "FP32", (CLASSES,)),)
    outputs = (TensorSpec("logits", "FP32", (CLASSES,)),)

    def __init__(self, answer: Callable[[Array], Array] | None, *, refuses: bool) -> None:
        self._answer, self._refuses = answer, refuses

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        if self._refuses:
            raise InferenceError(REFUSAL)
        logits = feed_dict["pixels"] * 2
        return {"logits": self._answer(logits) if self._answer else logits}

    def close(self) -> None:
        pass


class _Served(InProcessDeployment):
    """Says of each sample whether it left a cascade early, as a served one does."""

    def runner(self, model: str | None = None) -> Runner:
        found = super().runner(model)
        return found if model is not None else _SayingWho(found)


class _SayingWho:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.inputs = runner.inputs
        self.outputs = (*runner.outputs, TensorSpec(_LEFT_EARLY, "BOOL", (1,)))

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        return {**self._runner.infer(feed_dict), _LEFT_EARLY: _left(feed_dict["image"])[:, None]}

    def close(self) -> None:
        self._runner.close()


def _left(image: Array) -> Array:
    left: Array = image[:, 0] < 0.5
    return left


class _Absent(InProcessDeployment):
    def runner(self, model: str | None = None) -> Runner:
        raise InferenceError(ABSENCE)


def deployment(answer: Callable[[Array], Array] | None = None, *, refuses: bool = False) -> Deployment:
    """Serve a classifier of ten classes: ensemble input ``image``, output ``scores``, one component ``only``.

    Args:
        answer: Changes its logits, such as ``lambda logits: logits + noise``; None leaves them.
        refuses: Answer every request with an `InferenceError`.
    """
    return _Served((_PART,), {"only": lambda: _Classifier(answer, refuses=refuses)}, ("scores",), {"only": _BYTES})


def absent() -> Deployment:
    """Return a deployment that serves no model at all."""
    return _Absent((), {}, (), {"only": _BYTES})


def evidence(**changes: Any) -> Evidence:
    """Return evidence on which candidate, reference and original are equal; ``changes`` replace its fields.

    Forty labelled samples; the original is right on all of them, also without the input ``sound``, which none has, and
    where they leave a cascade early, as nine of ten do.
    """
    labels = np.arange(40) % CLASSES
    noise = np.random.default_rng(0).normal(0, 0.1, (len(labels), CLASSES))
    image = np.eye(CLASSES, dtype=np.float32)[labels] + noise.astype(np.float32)
    fields: dict[str, Any] = {
        "candidate": deployment(),
        "reference": deployment(),
        "components": (_PART,),
        "ensemble_outputs": ("scores",),
        "feeds": {"image": image},
        "labels": labels,
        "original": {"scores": image * 2},
        "hardware": this_hardware(),
        "max_batch_size": 8,
        "subsets": (EvidenceSubset("without sound", ("sound",), {"scores": image * 2}, ("only",)),),
        "cascade": EvidenceCascade(_LEFT_EARLY, _left(image), {"scores": image * 2}),
    }
    fields |= changes
    return Evidence(**fields | {"feeds": Samples.of(fields["feeds"])})
