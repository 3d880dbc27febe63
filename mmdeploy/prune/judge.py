"""Score modules of a component at the ensemble's output, in PyTorch, on the validation split."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Array, FusedScore, TrainingSetup
from mmdeploy.scoring import metrics

if TYPE_CHECKING:
    from torch import nn

    from mmdeploy.scoring.metrics import FloatArray

_BATCH = 64
#: Metrics that are means over samples, which makes paired intervals possible.
_MEANS = ("top1", "accuracy", "top5", "mse", "mae")
#: SQNR of a sample that did not change among samples that did.
_UNCHANGED_DB = 150.0


class ModuleJudge:
    """Scores modules as `FusedOutput` scores graphs; satisfies `mmdeploy.scoring.evaluations.Judge`."""

    def __init__(self, setup: TrainingSetup) -> None:
        """Read the validation split.

        Raises:
            DataError: If it is bad, has no labels, or holds a sample of the evaluation split.
        """
        self._setup = setup
        self._feeds, self._labels = setup.validation()
        self._output = setup.ensemble_outputs[0]
        self._originals: Array | None = None

    @property
    def metric(self) -> str:
        """Name of the task's metric."""
        return self._setup.metric

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger metric is better."""
        return self._setup.larger_is_better

    @property
    def samples(self) -> int:
        """Number of validation samples."""
        return len(self._labels)

    def original(self, part: slice | None = None) -> FusedScore:
        """Score the original model."""
        chosen = part or slice(None)
        return self._scored(self._original_answers()[chosen], chosen)

    def score(self, candidate: nn.Module, part: slice | None = None) -> FusedScore:
        """Score a module in the component's place."""
        chosen = part or slice(None)
        return self._scored(self._answers(candidate, chosen), chosen)

    def _original_answers(self) -> Array:
        if self._originals is None:
            self._originals = self._answers(None, slice(None))
        return self._originals

    def _answers(self, module: nn.Module | None, part: slice) -> Array:
        import numpy as np
        import torch

        network = self._setup.teacher if module is None else self._setup.network(module)
        feeds = {name: np.ascontiguousarray(array[part]) for name, array in self._feeds.items()}
        rows = []
        with torch.inference_mode():
            for start in range(0, len(self._labels[part]), _BATCH):
                batch = {name: torch.from_numpy(array[start : start + _BATCH]) for name, array in feeds.items()}
                rows.append(network(batch)[self._output].numpy())
        return np.concatenate(rows)

    def _scored(self, answers: Array, part: slice) -> FusedScore:
        import numpy as np

        reference, labels = self._original_answers()[part], self._labels[part]
        if not np.isfinite(answers).all():
            return FusedScore(0.0 if self.larger_is_better else math.inf, None, -math.inf, 0.0, len(labels))
        sqnr_db = metrics.per_sample_sqnr_db(reference, answers)
        if not np.isposinf(sqnr_db).all():
            sqnr_db = np.minimum(sqnr_db, _UNCHANGED_DB)
        return FusedScore(
            metric=self._setup.score({self._output: answers}, labels),
            per_sample=self._per_sample(answers, labels),
            sqnr_db=float(sqnr_db.mean()),
            cosine=float(metrics.per_sample_cosine(reference, answers).mean()),
            samples=len(labels),
        )

    def _per_sample(self, answers: Array, labels: Array) -> FloatArray | None:
        import numpy as np

        if self.metric not in _MEANS:
            return None
        score, output = self._setup.score, self._output
        scores = [score({output: answers[at : at + 1]}, labels[at : at + 1]) for at in range(len(labels))]
        return np.array(scores, dtype=np.float64)
