"""How much each unit of a group matters: by the size of its weights, or by what the loss does without it.

``magnitude``: the L2 norm of all weights that go with the unit, the rows that make it, the columns that read it and
the scales of norms between (group magnitude of Fang et al., 2023, "DepGraph"; biases are left out).

``taylor``: how much the loss of a sample changes, to first order, when what reads the unit gets zero instead: |sum of
activation times gradient|, averaged over samples (Molchanov et al., 2017, "Pruning Convolutional Neural Networks for
Resource Efficient Inference"). Each sample on its own, because the gradients of a trained model cancel in a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mmdeploy.prune.groups import Group, Slice

if TYPE_CHECKING:
    from torch import Tensor, nn


def magnitudes(group: Group) -> Tensor:
    """Return the L2 norm of each unit's weights, float64 [units]."""
    import torch

    squares = torch.zeros(group.units, dtype=torch.float64)
    with torch.no_grad():
        for part in group.slices:
            weight = _weight(part)
            if weight is not None:
                squares += _per_channel(part, weight.double() ** 2)[part.indices].sum(dim=1)
    return squares.sqrt()


def taylor(groups: Sequence[Group], losses: Iterable[tuple[Tensor, int]]) -> Mapping[str, Tensor]:
    """Return the mean over samples of the first-order change of their loss without each unit.

    Args:
        groups: In a module whose parameters require gradients.
        losses: The mean loss of each batch, with its graph, and its number of samples; made one at a time by calls
            of the module.

    Returns:
        Float64 [units] by name of the group.
    """
    import torch

    readers = {id(part.owner): part.owner for group in groups for part in group.consumers}
    totals = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in groups}
    seen = 0
    with _inputs_of(readers.values()) as inputs:
        for loss, samples in losses:
            gradients = torch.autograd.grad(loss, [given for _, given in inputs], allow_unused=True)
            changes: dict[int, Tensor] = {}
            for (reader, given), gradient in zip(inputs, gradients, strict=True):
                if gradient is not None:
                    products = given.detach().double() * gradient.double() * samples
                    found = _per_sample(products, samples, convolution=hasattr(reader, "kernel_size"))
                    changes[id(reader)] = changes.get(id(reader), 0) + found
            for group in groups:
                totals[group.name] += _change(group, changes, samples).abs().sum(dim=0)
            seen += samples
            inputs.clear()
    return {name: total / max(seen, 1) for name, total in totals.items()}


@contextlib.contextmanager
def _inputs_of(layers: Iterable[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Collect what layers are given while the context is open."""
    inputs: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if arguments[0].requires_grad:
            inputs.append((layer, arguments[0]))

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def _per_sample(products: Tensor, samples: int, *, convolution: bool) -> Tensor:
    """Sum over all but samples and channels: [samples, channels]."""
    last = products.movedim(1, -1) if convolution else products
    if last.shape[0] % samples:  # samples are on another axis: shared out among them
        return last.reshape(1, -1, last.shape[-1]).sum(dim=1).expand(samples, -1) / samples
    return last.reshape(samples, -1, last.shape[-1]).sum(dim=1)


def _change(group: Group, changes: Mapping[int, Tensor], samples: int) -> Tensor:
    """Return the change of each sample's loss without each unit [samples, units]."""
    import torch

    total = torch.zeros(samples, group.units, dtype=torch.float64)
    for part in group.consumers:
        if (found := changes.get(id(part.owner))) is not None:
            total += found[:, part.indices].sum(dim=-1)
    return total


def _weight(part: Slice) -> Tensor | None:
    """Return what a slice is a slice of; a norm without weights has none."""
    weight: Tensor | None = getattr(part.owner, part.parameter or "weight", None)
    return weight


def _per_channel(part: Slice, values: Tensor) -> Tensor:
    """Sum values in the shape of a weight to one a channel of the slice's axis."""
    from torch import nn

    layer = part.owner
    if part.parameter:
        axis = max(axis for axis, size in enumerate(values.shape) if size > 1)  # torch-pruning's choice too
        return values.movedim(axis, 0).reshape(values.shape[axis], -1).sum(1)
    if isinstance(layer, nn.Embedding):
        return values.sum(0)
    if values.dim() == 1:
        return values
    groups = getattr(layer, "groups", 1)
    by_group = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
    transposed = getattr(layer, "transposed", False)
    if (part.axis == "in") != transposed:
        return by_group.sum((1, 3)).flatten()  # the second axis of the weight, of one group
    return by_group.sum((2, 3)).flatten()
