"""How much each unit of a group matters: by the size of its weights, or by what the loss does without it.

``magnitude``: the L2 norm of all weights that go with the unit, the rows that make it, the columns that read it and
the scales of norms between (group magnitude of Fang et al., 2023, "DepGraph"; biases are left out).

``taylor``: the change of the task loss, to first order, when what reads the unit is set to zero: |sum of weight times
gradient|, averaged over batches (Molchanov et al., 2019, "Importance Estimation for Neural Network Pruning").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mmdeploy.prune.groups import Group, Slice

if TYPE_CHECKING:
    from torch import Tensor


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


def taylor(groups: Sequence[Group], losses: Iterable[Tensor]) -> Mapping[str, Tensor]:
    """Return the mean over batches of the first-order change of the loss without each unit.

    Args:
        groups: With the weights that the losses were computed from.
        losses: The loss of each batch, with its graph.

    Returns:
        Float64 [units] by name of the group.
    """
    import torch

    weights = [weight for group in groups for part in group.consumers if (weight := _weight(part)) is not None]
    totals = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in groups}
    batches = 0
    for loss in losses:
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        gradients = {id(weight): gradient for weight, gradient in zip(weights, found, strict=True)}
        for group in groups:
            totals[group.name] += _change(group, gradients).abs()
        batches += 1
    return {name: total / max(batches, 1) for name, total in totals.items()}


def _change(group: Group, gradients: Mapping[int, Tensor | None]) -> Tensor:
    import torch

    change = torch.zeros(group.units, dtype=torch.float64)
    for part in group.consumers:
        weight = _weight(part)
        gradient = gradients.get(id(weight))
        if weight is not None and gradient is not None:
            products = weight.detach().double() * gradient.double()
            change += _per_channel(part, products)[part.indices].sum(dim=1)
    return change


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
