"""What training minimizes: the task's loss, the distance to the original's answers, or both.

Distillation compares class scores by the Kullback-Leibler divergence of their softmax at a temperature (Hinton,
Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, whose factor T² keeps the gradient's size),
and everything else (embeddings, tokens, regression outputs) by the squared error of a sample as a share of the
original's square. These are means over samples, so that the loss of a batch is the weighted mean of its parts' losses.
How samples lie to each other (Tung and Mori, "Similarity-Preserving Knowledge Distillation", 2019) is of a batch's
share, as contrastive losses are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmdeploy.core.contracts import TrainingSetup
from mmdeploy.core.errors import DataError, TrainingError
from mmdeploy.training.options import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor

#: Keeps the relative error of an all-zero embedding finite.
_TINY = 1e-12


def loss(
    outputs: Mapping[str, Tensor],
    feeds: Mapping[str, Tensor],
    labels: Any,
    *,
    setup: TrainingSetup,
    options: TrainingOptions,
) -> Tensor:
    """Return the loss of a batch, a scalar: the mean over its samples.

    Args:
        outputs: What the network gave for ``feeds``, by ensemble tensor.
        feeds: The ensemble's inputs.
        labels: One a sample, as `mmdeploy.training.processes.labels_on` gives them, or None.
        setup: The model around the component.
        options: Of training.

    Raises:
        DataError: If the task's loss is asked for without labels.
        TrainingError: If there is nothing to compare, or shapes differ from the original's.
    """
    parts: list[Tensor] = []
    if options.uses_task:
        if labels is None:
            raise DataError(
                f"loss {options.loss} needs labels, but the training data has none",
                hint="yield (feed, label) for each sample, or train with loss: distill",
            )
        parts.append(setup.task_loss(outputs, labels))
    if options.uses_teacher:
        parts.append(_distillation(outputs, setup.teacher(feeds), setup, options))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² KL(teacher ‖ student) of softmaxed scores [..., classes], a mean over all leading axes."""
    from torch.nn import functional

    classes = student.shape[-1]
    given = functional.log_softmax(student.float().reshape(-1, classes) / temperature, dim=-1)
    wanted = functional.log_softmax(teacher.float().reshape(-1, classes) / temperature, dim=-1)
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over samples (axis 0) of ‖student - teacher‖² / ‖teacher‖²."""
    samples = len(student)
    error = (student.float() - teacher.float()).reshape(samples, -1).square().sum(dim=1)
    return (error / (teacher.float().reshape(samples, -1).square().sum(dim=1) + _TINY)).mean()


def relation_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over pairs of samples (axis 0) of the squared difference of their cosines, student and teacher.

    The two may differ in size: only how samples lie to each other is compared. Of one sample it is 0.
    """
    from torch.nn import functional

    given, wanted = (
        functional.normalize(one.float().reshape(len(one), -1), dim=1, eps=_TINY) for one in (student, teacher)
    )
    return (given @ given.T - wanted @ wanted.T).square().mean()


def _distillation(
    outputs: Mapping[str, Tensor], teacher: Mapping[str, Tensor], setup: TrainingSetup, options: TrainingOptions
) -> Tensor:
    scored = setup.scored_outputs[0]
    parts: list[Tensor] = []
    if options.logits_weight:
        student, wanted = _pair(scored, outputs, teacher)
        are_scores = setup.compares_scores and student.ndim > 1 and student.shape[-1] > 1
        distance = divergence(student, wanted, options.temperature) if are_scores else relative_error(student, wanted)
        parts.append(options.logits_weight * distance)
    if options.embedding_weight:
        embeddings = [name for name in setup.component_outputs if not (options.logits_weight and name == scored)]
        errors = [
            relative_error(*_pair(name, outputs, teacher)) for name in embeddings if outputs[name].is_floating_point()
        ]
        parts += [options.embedding_weight * error / len(errors) for error in errors]
    if options.relation_weight:
        related = [name for name in setup.component_outputs if outputs[name].is_floating_point()]
        errors = [relation_error(outputs[name], teacher[name]) for name in related]
        parts += [options.relation_weight * error / len(errors) for error in errors]
    if not parts:
        raise TrainingError(
            "distillation has nothing to compare: the component puts out no floating-point tensor",
            hint="give logits_weight, or train with loss: task",
        )
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _pair(name: str, outputs: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    student, wanted = outputs[name], teacher[name]
    if student.shape != wanted.shape:
        raise TrainingError(
            f"{name!r} is {list(student.shape)}, but {list(wanted.shape)} in the original model: "
            "distillation cannot compare them",
            hint="set embedding_weight: 0, or train with loss: task",
        )
    return student, wanted
