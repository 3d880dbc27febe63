"""Fine-tune a component inside its frozen model, with the task's loss, distillation from the original, or both.

What it does to the numbers: gradient descent moves the component's own weights; everything around it stays as it
is: upstream components as their own torch passes left them, downstream ones original. Zeros that magnitude or n:m
pruning made stay zero. Sizes do not change, so what pruning saved stays saved. The weights kept are those of the
epoch with the best metric on the validation split, those before training included: it never makes that metric worse.

When to choose it: after pruning, always; structured pruning by 30 to 50 % is rarely usable without. ``loss: both`` (the
default) where there are labels. ``loss: distill`` needs none, and is the better one where labels are few or noisy: the
original's class scores (softened by ``temperature``; Hinton et al., 2015) say more than a class, and matching the
component's own output (``embedding_weight``) trains it even when it lies far from the loss. ``loss: task`` lets the
component leave the original behind, for instance when the training data is better than what the original saw.

What it needs: ``data.training`` and, with labels, ``data.validation``; neither may share a sample with
``data.evaluation``, on which the gates judge: that is refused. Start with ``learning_rate`` at a tenth to a third of
the one that trained the original. A run that was killed goes on from its last checkpoint.

Limits: parameters in FP32; nothing is trained whose ``requires_grad`` the factory took away. Data parallel on several
processes (``--processes``), not model parallel; on several, batch normalization and losses that compare the samples
of a batch with each other see one process's share only.
"""

from __future__ import annotations

from typing import Literal

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import StepContext
from mmdeploy.model.torch_component import component_facts, load_component, save_component
from mmdeploy.training.loop import fit, required_setup
from mmdeploy.training.options import TrainingOptions
from mmdeploy.training.record import TRAINING

CONSUMES = "torch"
PRODUCES = "torch"
REQUIRES: tuple[str, ...] = ("accelerate", "safetensors", "torch")
MEASURES = False


class Options(TrainingOptions):
    """Options of fine-tuning: those of training."""

    method: Literal["finetune"] = "finetune"


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that are read."""
    return frozenset({"training", "validation"})


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Fine-tune one component.

    Args:
        artifact: The component as the pass before left it.
        options: Of this pass.
        context: Of the step, with ``training``.

    Returns:
        The component with trained weights; metadata ``training``: the course of the training, with ``best_epoch``,
        ``improved`` and a ``note`` in words.

    Raises:
        DataError: If a split is missing, unlabelled where labels are needed, bad, or shares a sample with the
            evaluation split.
        TrainingError: If there is nothing to train, or the loss is no longer finite.
    """
    required_setup(context)
    module = load_component(artifact)
    record = fit(module, options, context, sparse=component_facts(artifact).sparse_parameters)
    return save_component(
        module,
        before=artifact,
        folder=context.workdir,
        produced_by="finetune",
        metadata={TRAINING: record.to_metadata()},
    )
