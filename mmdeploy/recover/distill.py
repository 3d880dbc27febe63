"""Train another, smaller module in a component's place, inside the frozen model, to answer as the original did.

What it does to the numbers: ``student`` builds a module with the component's inputs and outputs. Gradient descent moves
its weights until the ensemble answers as it did with the original: by the class scores (softened by ``temperature``;
Hinton et al., 2015), by the component's own outputs (``embedding_weight``; Romero et al., "FitNets", 2015), by how the
samples of a batch lie to each other (``relation_weight``; Tung and Mori, 2019), and by the task's own loss. Everything
around it stays as it is. The weights kept are those of the epoch with the best metric on the validation split.

When to choose it: where another architecture answers as well in less time than pruning leaves: fewer or cheaper layers,
a convolution for attention, a smaller window. What comes after (``quantize``, engines, gates) takes it as it takes the
original. ``mmdeploy sweep --set components.NAME.recover.method=distill --set
components.NAME.recover.student=model.py:small,model.py:tiny`` tries several sizes.

What it needs: ``data.training`` and, with labels, ``data.validation``, neither with a sample of ``data.evaluation``;
and more of it, and more epochs, than fine-tuning: the student starts from what its callable gives, random numbers or a
checkpoint of its own. A run that was killed goes on from its last checkpoint.

Limits: not with ``prune``, which would cut the module that is replaced. The student's outputs have the original's
shapes and types: a layer at its end brings them there. A component that shares its module with others is not replaced
alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import StepContext
from mmdeploy.core.errors import ModelError
from mmdeploy.model.sources import REFERENCE_PATTERN
from mmdeploy.model.torch_component import component_facts, original_component, save_component
from mmdeploy.model.torch_model import call_module, load_model
from mmdeploy.training.loop import fit, required_setup
from mmdeploy.training.options import TrainingOptions
from mmdeploy.training.processes import random_state_kept, seed
from mmdeploy.training.record import TRAINING

if TYPE_CHECKING:
    from torch import Tensor, nn

CONSUMES = "torch"
PRODUCES = "torch"
REQUIRES: tuple[str, ...] = ("accelerate", "safetensors", "torch")
MEASURES = False
#: Rows of the batch on which the student's outputs are held against the original's.
_ROWS = 2


class Options(TrainingOptions):
    """Options of distilling into another module: those of training, and what builds it."""

    method: Literal["distill"] = "distill"
    student: Annotated[
        str,
        Field(
            pattern=REFERENCE_PATTERN,
            description="Callable without arguments that returns the smaller torch.nn.Module with the component's "
            "inputs and outputs: path.py:callable beside the recipe, or package.module:callable.",
            examples=["model.py:small"],
        ),
    ]
    epochs: Annotated[int, Field(ge=1, description="Passes over the training split, at most.")] = 30
    learning_rate: Annotated[
        float, Field(gt=0, le=10, allow_inf_nan=False, description="Largest learning rate, after the warm-up.")
    ] = 1e-3
    patience: Annotated[
        int | None,
        Field(ge=1, description="Stop after so many epochs without a better validation metric; null never stops."),
    ] = 10


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that are read."""
    return frozenset({"training", "validation"})


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Train the student in the component's place.

    Args:
        artifact: The component as the recipe's model gives it.
        options: Of this pass.
        context: Of the step, with ``training``.

    Returns:
        The student with trained weights; metadata ``training``: the course of the training; ``parameters``: numbers of
        the original and of the student.

    Raises:
        DataError: If a split is missing, unlabelled where labels are needed, bad, or shares a sample with the
            evaluation split.
        ModelError: If the student cannot be built, or has another interface than the original.
        TrainingError: If there is nothing to train, or the loss is no longer finite.
    """
    required_setup(context)
    original, root = original_component(artifact), component_facts(artifact).root
    with random_state_kept():
        seed(context.seed)
        student = load_model(options.student, root=root, weights=None)
    _expect_interface(student, original, artifact, options, context)
    record = fit(student, options, context)
    return save_component(
        student,
        before=artifact,
        folder=context.workdir,
        produced_by="distill",
        metadata={TRAINING: record.to_metadata(), "parameters": [_parameters(original), _parameters(student)]},
        student=options.student,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _expect_interface(
    student: nn.Module, original: nn.Module, artifact: Artifact, options: Options, context: StepContext
) -> None:
    """See that the student answers with tensors of the original's names, shapes and types.

    Raises:
        ModelError: When it does not.
    """
    import numpy as np
    import torch

    of = component_facts(artifact)
    feed = {name: torch.from_numpy(np.array(array)) for name, array in context.examples(_ROWS).items()}

    def answered(module: nn.Module) -> dict[str, Tensor]:
        given = {name: feed[name].clone() for name in of.inputs}
        with torch.no_grad():
            return call_module(module, given, of.outputs, name=context.component)

    wanted = answered(original)
    try:
        given = answered(student)
    except ModelError as error:
        raise ModelError(
            f"{context.component}: the student {options.student} has another interface than the original: "
            f"{error.message}",
            hint=f"it takes {', '.join(of.inputs)} and gives {', '.join(of.outputs)}, as "
            f"{of.module or 'the model'} does",
        ) from error
    for name, tensor in wanted.items():
        if (given[name].shape, given[name].dtype) != (tensor.shape, tensor.dtype):
            raise ModelError(
                f"{context.component}: the student {options.student} gives {name!r} as {_shown(given[name])} for "
                f"{_ROWS} samples, the original as {_shown(tensor)}",
                hint="end it with a layer that brings its output there, such as nn.Linear",
            )


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
