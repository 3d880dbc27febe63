"""Score modules of a component at the ensemble's output, in PyTorch, on the validation split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Array, FusedScore, TrainingSetup
from mmdeploy.core.samples import Gathered, Samples, picked
from mmdeploy.scoring import closeness, ragged

if TYPE_CHECKING:
    from torch import nn


_BATCH = 64


class ModuleScorer:
    """Scores modules as `FusedOutput` scores graphs; satisfies `mmdeploy.scoring.evaluations.Scorer`."""

    def __init__(self, setup: TrainingSetup) -> None:
        """Read the validation split.

        Raises:
            DataError: If it is bad, has no labels, or holds a sample of the evaluation split.
        """
        self._setup = setup
        feeds, self._labels = setup.validation()
        self._feeds = Samples.of(feeds)
        self._outputs = setup.scored_outputs
        self._originals: dict[str, Array] | None = None

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
        return self._scored(_part(self._original_answers(), chosen), chosen)

    def score(self, candidate: nn.Module, part: slice | None = None) -> FusedScore:
        """Score a module in the component's place."""
        chosen = part or slice(None)
        return self._scored(self._answers(candidate, chosen), chosen)

    def _original_answers(self) -> dict[str, Array]:
        if self._originals is None:
            self._originals = self._answers(None, slice(None))
        return self._originals

    def _answers(self, module: nn.Module | None, part: slice) -> dict[str, Array]:
        import numpy as np
        import torch

        network = self._setup.teacher if module is None else self._setup.network(module)
        feeds = self._feeds.select(part)
        gathered = {name: Gathered(feeds.count) for name in self._outputs}
        with torch.inference_mode():
            for rows in feeds.batches(_BATCH):
                batch = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in feeds.take(rows).items()}
                tensors = network(batch)
                for name, found in gathered.items():
                    found.put(rows, tensors[name].numpy())
        return {name: found.column() for name, found in gathered.items()}

    def _scored(self, answers: Mapping[str, Array], part: slice) -> FusedScore:
        original, labels = _part(self._original_answers(), part), self._labels[part]
        if not all(ragged.finite(column).all() for column in answers.values()):
            return FusedScore(0.0 if self.larger_is_better else math.inf, None, -math.inf, 0.0, len(labels))
        found, (sqnr_db, cosine) = self._setup.score(answers, labels), closeness.output_noise(original, answers)
        return FusedScore(found.score, found.per_sample, sqnr_db, cosine, len(labels))


def _part(answers: Mapping[str, Array], part: slice) -> dict[str, Array]:
    return {name: picked(column, part) for name, column in answers.items()}
