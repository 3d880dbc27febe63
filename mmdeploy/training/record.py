"""What training did, epoch by epoch: for the report, and for going on after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmdeploy.core.facts import as_metadata, find

#: Name in the metadata of a step that trained.
TRAINING = "training"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: From 1; 0 is the module as it was before training.
        metric: The task's metric on the validation split; None when an answer was not finite.
        validation_loss: Mean of the trained loss over the validation split; None as above.
        training_loss: Mean over the epoch's steps, weighted by samples; None for epoch 0.
        learning_rate: At the epoch's last step; 0 for epoch 0.
        seconds: Wall-clock time of the epoch, its validation included.
    """

    epoch: int
    metric: float | None
    validation_loss: float | None
    training_loss: float | None = None
    learning_rate: float = 0.0
    seconds: float = 0.0


@dataclass
class TrainingRecord:
    """The course of one training.

    Attributes:
        metric: Name of the validation metric.
        larger_is_better: Whether a larger metric is better.
        steps_per_epoch: Optimizer steps in an epoch.
        batch_size: Samples a step, over all processes.
        processes: Processes that trained.
        parameters: Elements of the parameters that were trained.
        epochs: Epoch 0, then each epoch in order.
        stopped_early: Whether patience ran out before the last epoch.
    """

    metric: str
    larger_is_better: bool
    steps_per_epoch: int
    batch_size: int
    processes: int
    parameters: int
    epochs: list[EpochRecord] = field(default_factory=list)
    stopped_early: bool = False

    @property
    def best(self) -> EpochRecord:
        """The epoch whose weights are kept: best metric, then lowest validation loss, then earliest."""
        return min(self.epochs, key=self._rank)

    @property
    def improved(self) -> bool:
        """Whether training found anything better than what it started from."""
        return self.best.epoch > 0

    def epochs_without_gain(self) -> int:
        """Return how many epochs ago the metric was last better than ever before."""
        first_best = min(self.epochs, key=lambda epoch: self._rank(epoch)[0])
        return self.epochs[-1].epoch - first_best.epoch

    def _rank(self, epoch: EpochRecord) -> tuple[float, float]:
        worst = float("inf")
        metric = worst if epoch.metric is None else -epoch.metric if self.larger_is_better else epoch.metric
        return metric, worst if epoch.validation_loss is None else epoch.validation_loss

    @property
    def note(self) -> str:
        """What a reader must know in words."""
        best, start = self.best, self.epochs[0]
        if not self.improved:
            return f"no epoch was better than before training ({self.metric} {_shown(start.metric)}): weights unchanged"
        early = " (stopped early)" if self.stopped_early else ""
        return (
            f"{self.metric} {_shown(start.metric)} before training, {_shown(best.metric)} after epoch {best.epoch} "
            f"of {self.epochs[-1].epoch}{early}"
        )

    def to_metadata(self) -> dict[str, Any]:
        """Return it as JSON-able facts, for an artifact's metadata under `TRAINING`."""
        return as_metadata(self) | {"best_epoch": self.best.epoch, "improved": self.improved, "note": self.note}

    @classmethod
    def from_metadata(cls, facts: Mapping[str, Any]) -> TrainingRecord:
        """Read what `to_metadata` gave."""
        found = find(cls, facts)
        if found is None:
            raise ValueError("this is no record of a training")
        return found


def training_record(metadata: Mapping[str, Any]) -> TrainingRecord | None:
    """Return the training of a step, out of its artifact's metadata; None where it did not train, or failed."""
    found = find(TrainingRecord, metadata, under=TRAINING)
    return found if found is not None and found.epochs else None


def _shown(metric: float | None) -> str:
    return "not finite" if metric is None else f"{metric:.4g}"
