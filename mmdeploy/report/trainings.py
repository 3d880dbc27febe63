"""The course of each training, from the metadata of the steps that trained, in the same words for every rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmdeploy.record.build_report import BuildReport, StepRecord
from mmdeploy.report.units import count_text, figure_text, seconds_text

HEAD = ("Epoch", "Training loss", "Validation loss", "Metric", "Learning rate", "Time")
_KINDS = ("recover", "train")


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Epoch(_Facts):
    """An epoch as `mmdeploy.training.record` wrote it; what was not finite is None."""

    epoch: int
    metric: float | None = None
    validation_loss: float | None = None
    training_loss: float | None = None
    learning_rate: float = 0.0
    seconds: float = 0.0


class Course(_Facts):
    """A training as `mmdeploy.training.record` wrote it; epoch 0 is the module before it."""

    metric: str
    epochs: tuple[Epoch, ...] = Field(min_length=1)
    best_epoch: int
    improved: bool
    note: str
    steps_per_epoch: int = 0
    batch_size: int = 0
    processes: int = 1
    parameters: int = 0


@dataclass(frozen=True)
class Row:
    """An epoch as people read it; the cells are those of `HEAD`.

    Attributes:
        cells: One text a column.
        best: Whether its weights were kept.
    """

    cells: tuple[str, ...]
    best: bool


def trainings(report: BuildReport) -> list[tuple[str, Course]]:
    """Return the id of each step that trained, with its course."""
    found = []
    for step in report.steps:
        course = _read(step) if step.kind in _KINDS else None
        if course is not None:
            found.append((step.id, course))
    return found


def _read(step: StepRecord) -> Course | None:
    try:
        return Course.model_validate(step.metadata.get("training"))
    except ValidationError:  # a step that failed, or a report of another version
        return None


def told(course: Course) -> str:
    """Return how it went and what it took, in a line."""
    epochs, steps = len(course.epochs) - 1, course.steps_per_epoch
    parts = [
        f"{epochs} epoch{'' if epochs == 1 else 's'} of {steps} step{'' if steps == 1 else 's'}",
        f"batch {course.batch_size}",
        f"{count_text(course.parameters)} parameters",
        *([f"{course.processes} processes"] if course.processes > 1 else []),
        seconds_text(sum(epoch.seconds for epoch in course.epochs)),
    ]
    return f"{course.note} ({', '.join(parts)})"


def rows(course: Course) -> list[Row]:
    """Return the epochs in order."""
    return [
        Row(
            (
                "before" if one.epoch == 0 else str(one.epoch),
                "–" if one.epoch == 0 else _figure(one.training_loss),
                _figure(one.validation_loss),
                _figure(one.metric),
                "–" if one.epoch == 0 else f"{one.learning_rate:.3g}",
                seconds_text(one.seconds),
            ),
            one.epoch == course.best_epoch,
        )
        for one in course.epochs
    ]


def losses(course: Course) -> Sequence[tuple[str, Sequence[float | None]]]:
    """Return the loss by epoch, epoch 0 first: that of training, then that of validation."""
    return (
        ("training", [one.training_loss for one in course.epochs]),
        ("validation", [one.validation_loss for one in course.epochs]),
    )


def _figure(value: float | None) -> str:
    return "not finite" if value is None else figure_text(value)
