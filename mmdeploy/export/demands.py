"""What a component's module must do in PyTorch to be served at all: no graph could mend it.

A server groups the requests of strangers into batches and asks one copy of the model again and again. So an answer may
depend on nothing but its own sample: not on the rest of the batch, not on what was asked before, not on chance; and
every output has one row a sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import ExportError
from mmdeploy.model.torch_model import call_module

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmdeploy.core.contracts import Array

#: Rows of the batch that is looked at.
_BATCH = 3
#: Containers of containers that are looked into for state.
_DEPTH = 3
_PLAIN = (int, float, str, bytes, tuple)


@dataclass(frozen=True)
class Subject:
    """A module as the recipe gives it.

    Attributes:
        component: Name of the component, for messages.
        module: The module, in eval mode; not called before.
        fresh: Builds it once more.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        atol: Absolute difference of answers that counts as none.
        rtol: The same, relative to the answer.
    """

    component: str
    module: nn.Module
    fresh: Callable[[], nn.Module]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    atol: float
    rtol: float


@dataclass(frozen=True)
class FirstCall:
    """The first call of a module: a few samples, and what they were answered."""

    feed: Mapping[str, Tensor]
    answers: Mapping[str, Tensor]


def require_no_memory(subject: Subject, examples: Callable[[int], Mapping[str, Array]]) -> FirstCall:
    """Call a module for the first time, and see that later answers do not follow from that.

    Args:
        subject: What to call.
        examples: Makes a feed dict of so many samples.

    Raises:
        ModelError: If the module fails, or returns something else than the declared outputs.
        ExportError: If what it keeps of the first call changes what it answers to others.
    """
    import numpy as np
    import torch

    made = examples(_BATCH)
    feed = {name: torch.from_numpy(np.array(made[name])) for name in subject.inputs}
    with torch.no_grad():
        before = state_of(subject.module)
        first = FirstCall(feed, _answers(subject, subject.module, feed))
        changed = changed_state(before, state_of(subject.module))
        if changed is None:
            return first
        others = _rows(feed, [*range(1, _BATCH), 1])  # without the first, in other numbers
        expected = _answers(subject, subject.fresh(), others)
        wrong = _differing(subject, expected, _answers(subject, subject.module, others))
    if wrong is not None:
        raise ExportError(
            f"{subject.component}: the module keeps state: its first call left {changed!r} behind, and output "
            f"{wrong!r} of later calls follows from it; the example's would be part of the graph, for every client",
            hint="compute it from the inputs in each call, or make it an input and an output of the component",
        )
    return first


def require_own_answers(subject: Subject, first: FirstCall) -> None:
    """See that each sample is answered by one row, and alone as beside others.

    Raises:
        ModelError: If the module fails on one sample.
        ExportError: If an output has no batch axis, or what a sample gets depends on its batch or on chance.
    """
    import torch

    with torch.no_grad():
        alone = {row: _answers(subject, subject.module, _rows(first.feed, [row])) for row in (0, _BATCH - 1)}
        for name in subject.outputs:
            _require_rows(subject, name, first.answers[name], alone[0][name])
        for row, answers in alone.items():
            if wrong := _differing(subject, _rows(first.answers, [row]), answers):
                raise _dependent(subject, wrong, first)


def _require_rows(subject: Subject, name: str, together: Tensor, alone: Tensor) -> None:
    shapes = [list(together.shape), list(alone.shape)]
    told = f"{subject.component}: output {name!r} is {shapes[0]} for a batch of {_BATCH} and {shapes[1]} for one sample"
    if shapes[0][:1] != [_BATCH] or shapes[1][:1] != [1]:
        raise ExportError(
            f"{told}: it has no batch axis, every output of a served component has one row a sample",
            hint="return only what each sample has of its own: a loss or a mean over the batch is for training",
        )
    if shapes[0][1:] != shapes[1][1:]:
        raise ExportError(
            f"{told}: what a sample gets depends on how many others are in its batch",
            hint="return the embeddings of both sides and compare them outside, or give each sample its own candidates "
            "as an input [batch, candidates, …]",
        )


def _dependent(subject: Subject, output: str, first: FirstCall) -> ExportError:
    if _differing(subject, first.answers, _answers(subject, subject.module, first.feed)):
        return ExportError(
            f"{subject.component}: output {output!r} differs when the module is asked the same again",
            hint="it is random, or keeps state between calls: switch that off where the factory builds it",
        )
    return ExportError(
        f"{subject.component}: output {output!r} of a sample depends on the other samples of its batch: alone it gets "
        "another answer, and a server batches whatever requests come together",
        hint="normalize over a sample's own axes, or with statistics kept from training (BatchNorm in eval mode)",
    )


def _answers(subject: Subject, module: nn.Module, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = {name: tensor.clone() for name, tensor in feed.items()}
    answers = call_module(module, given, subject.outputs, name=subject.component)
    return {name: answer.clone() for name, answer in answers.items()}


def _rows(tensors: Mapping[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def _differing(subject: Subject, expected: Mapping[str, Tensor], answered: Mapping[str, Tensor]) -> str | None:
    """Return the first output whose values differ; NaN equals NaN."""
    import torch

    for name, tensor in expected.items():
        other = answered[name]
        if tensor.shape != other.shape:
            return name
        if tensor.dtype.is_complex or not tensor.dtype.is_floating_point:
            if not torch.equal(tensor, other):
                return name
        elif not torch.allclose(other.double(), tensor.double(), subject.rtol, subject.atol, equal_nan=True):
            return name
    return None


def state_of(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return what a module holds besides its submodules: each thing, and what tells whether it was written to."""
    from torch import nn

    usual = vars(nn.Module())
    found: dict[str, tuple[Any, Any]] = {}
    for path, part in module.named_modules():
        held = {name: value for name, value in vars(part).items() if name not in usual}
        held |= dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))
        for name, value in held.items():
            found |= _marks(f"{path}.{name}".lstrip("."), value, _DEPTH)
    return found


def _marks(label: str, value: Any, depth: int) -> dict[str, tuple[Any, Any]]:
    """Return a value and what is in it, by label; what is held here keeps its address from being given away."""
    import torch
    from torch import nn

    if isinstance(value, torch.Tensor):
        return {label: (value, None if value.is_inference() else value._version)}
    inside: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        inside = dict(value)
    elif isinstance(value, list | tuple | set | frozenset | deque):
        inside = dict(enumerate(value))
    elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module) and not callable(value):
        inside = dict(vars(value))
    found = {label: (value, len(inside))}
    for key, one in inside.items() if depth else ():
        found |= _marks(f"{label}[{key!r}]", one, depth - 1)
    return found


def changed_state(before: Mapping[str, tuple[Any, Any]], after: Mapping[str, tuple[Any, Any]]) -> str | None:
    """Return the label of something that is new, another object, or was written to; None where nothing was."""
    for label, (value, mark) in after.items():
        if label not in before:
            return label
        old, old_mark = before[label]
        same = old is value or (isinstance(value, _PLAIN) and type(old) is type(value) and old == value)
        if not same or mark != old_mark:
            return label
    return next((label for label in before if label not in after), None)
