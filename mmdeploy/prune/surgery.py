"""Taking units out of a module, and the proof that it was done right.

The proof: a module without some units must answer as the original does when everything that reads those units is
multiplied by zero (and norms look at the other units only). It is made for every group on its own before anything is
decided, and once more for the whole, so a wrong guess about how channels go together is never shipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdeploy.prune.groups import Group, Slice
from mmdeploy.prune.tracing import Subject

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Difference allowed, relative to the largest answer: sums in another order, in FP32.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Removal:
    """Units of a group that go, by number."""

    group: Group
    units: tuple[int, ...]


def cut(removals: Sequence[Removal]) -> None:
    """Take units out of the layers of their groups, in place."""
    for part, indices in _merged(removals):
        if part.parameter:
            parameter = getattr(part.owner, part.parameter)
            setattr(part.owner, part.parameter, part.cut(parameter, indices))
        else:
            part.cut(part.owner, indices)
    for removal in removals:
        for owner, attribute, each in removal.group.attributes:
            setattr(owner, attribute, getattr(owner, attribute) - each * len(removal.units))


def difference(subject: Subject, removals: Sequence[Removal]) -> str | None:
    """Say how the module without units differs from the one with those units silenced; None when it does not.

    The module is as before afterwards.
    """
    with _restored(subject.module):
        with _silenced(subject.module, removals):
            expected = subject.answer()
        try:
            cut(removals)
            answers = subject.answer()
        except Exception as cause:  # noqa: BLE001 - user code on shapes it has not seen; told as a reason
            return f"it cannot be resized: {subject.describe(cause)}"
    for wanted, given in zip(expected, answers, strict=True):
        if wanted.shape != given.shape:
            return f"an output changes its shape from {list(wanted.shape)} to {list(given.shape)}"
        error = float((wanted.double() - given.double()).abs().max()) if wanted.numel() else 0.0
        largest = float(wanted.double().abs().max()) if wanted.numel() else 0.0
        if not error <= _TOLERANCE * max(largest, 1e-3):
            return (
                "taking some of its channels out changes what the others give (attention with unknown heads, a norm, "
                f"a reshape): the answers would differ by {error:.2g} of {largest:.2g}"
            )
    return None


def _merged(removals: Sequence[Removal]) -> list[tuple[Slice, list[int]]]:
    """Return the channels that go, once for each axis of each layer: several groups may share one."""
    merged: dict[tuple[int, str, str], tuple[Slice, set[int]]] = {}
    for removal in removals:
        for part in removal.group.slices:
            key = (id(part.owner), part.parameter, part.axis)
            merged.setdefault(key, (part, set()))[1].update(_channels(part, removal.units))
    return [(part, sorted(indices)) for part, indices in merged.values()]


def _channels(part: Slice, units: Sequence[int]) -> list[int]:
    return [int(index) for unit in units for index in part.indices[unit]]


@contextlib.contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Put parameters, buffers and plain attributes of every submodule back when the context closes."""
    plain = (int, tuple)
    saved = [
        (
            part,
            {name: value for name, value in vars(part).items() if isinstance(value, plain)},
            dict(part._parameters),
            dict(part._buffers),
        )
        for part in module.modules()
    ]
    try:
        yield
    finally:
        for part, attributes, parameters, buffers in saved:
            vars(part).update(attributes)
            part._parameters.update(parameters)
            part._buffers.update(buffers)


@contextlib.contextmanager
def _silenced(module: nn.Module, removals: Sequence[Removal]) -> Iterator[None]:
    """Multiply by zero whatever reads the units, and hide them from norms, while the context is open."""
    import torch
    from torch import nn

    hooks = []
    with _restored(module):
        for part, indices in _merged(removals):
            if part.axis == "in":
                weight: Any = part.owner.weight
                part.owner.weight = nn.Parameter(_without(part, weight.detach().clone(), indices))
            elif isinstance(part.owner, nn.LayerNorm | nn.GroupNorm) and not part.parameter:
                hooks.append(part.owner.register_forward_hook(_hiding(part.owner, indices)))
        try:
            with torch.no_grad():
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _without(part: Slice, weight: Tensor, indices: list[int]) -> Tensor:
    """Zero what input channels are multiplied by."""
    layer: Any = part.owner
    groups = getattr(layer, "groups", 1)
    if getattr(layer, "transposed", False):
        weight[indices] = 0.0
    elif groups == 1:
        weight[:, indices] = 0.0
    else:
        rows, columns = weight.shape[0] // groups, weight.shape[1]
        for index in indices:
            group, column = divmod(index, columns)
            weight[group * rows : (group + 1) * rows, column] = 0.0
    return weight


def _hiding(norm: nn.Module, indices: list[int]) -> Callable[..., Tensor]:
    """Return a hook that computes a norm from the channels that stay, and gives zero in the others."""
    import torch
    from torch import nn

    def replaced(_: nn.Module, arguments: tuple[Tensor, ...], __: Tensor) -> Tensor:
        given = arguments[0]
        axis = -1 if isinstance(norm, nn.LayerNorm) else 1
        kept = torch.tensor([index for index in range(given.shape[axis]) if index not in set(indices)])
        scales: tuple[Any, Any] = (norm.weight, norm.bias)
        weight, bias = (None if value is None else value[kept] for value in scales)
        chosen = given.index_select(axis, kept)
        if isinstance(norm, nn.LayerNorm):
            normed = nn.functional.layer_norm(chosen, (len(kept),), weight, bias, norm.eps)
        else:
            assert isinstance(norm, nn.GroupNorm)
            normed = nn.functional.group_norm(chosen, norm.num_groups, weight, bias, norm.eps)
        return torch.zeros_like(given).index_copy(axis, kept, normed)

    return replaced


def removed(removals: Sequence[Removal]) -> list[Mapping[str, Any]]:
    """Describe what was taken out, for reports."""
    return [
        {
            "group": removal.group.name,
            "kind": removal.group.kind,
            "before": removal.group.units * _shown_width(removal.group),
            "after": (removal.group.units - len(removal.units)) * _shown_width(removal.group),
            "layers": [f"{part.layer}:{part.axis}" for part in removal.group.slices],
            "removed_units": list(removal.units),
        }
        for removal in removals
    ]


def _shown_width(group: Group) -> int:
    return group.width if group.kind == "channels" else 1
