"""The course of each training, from the metadata of the steps that trained, in the same words for every rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmdeploy.record.build_report import BuildReport
from mmdeploy.report.units import count_text, figure_text, seconds_text
from mmdeploy.training.record import TrainingRecord, training_record

HEAD = ("Epoch", "Training loss", "Validation loss", "Metric", "Learning rate", "Time")
_KINDS = ("recover", "train")


@dataclass(frozen=True)
class Row:
    """An epoch as people read it; the cells are those of `HEAD`.

    Attributes:
        cells: One text a column.
        best: Whether its weights were kept.
    """

    cells: tuple[str, ...]
    best: bool


def trainings(report: BuildReport) -> list[tuple[str, TrainingRecord]]:
    """Return the id of each step that trained, with the course of its training."""
    found = ((step.id, training_record(step.metadata)) for step in report.steps if step.kind in _KINDS)
    return [(step_id, course) for step_id, course in found if course is not None]


def told(course: TrainingRecord) -> str:
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


def rows(course: TrainingRecord) -> list[Row]:
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
            one is course.best,
        )
        for one in course.epochs
    ]


def losses(course: TrainingRecord) -> Sequence[tuple[str, Sequence[float | None]]]:
    """Return the loss by epoch, epoch 0 first: that of training, then that of validation."""
    return (
        ("training", [one.training_loss for one in course.epochs]),
        ("validation", [one.validation_loss for one in course.epochs]),
    )


def _figure(value: float | None) -> str:
    return "not finite" if value is None else figure_text(value)
