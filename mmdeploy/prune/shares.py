"""How many units each group loses for a ratio, and which: the least important, in multiples that engines like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from mmdeploy.core.errors import PruneError
from mmdeploy.prune.groups import Group
from mmdeploy.prune.surgery import Removal

if TYPE_CHECKING:
    from torch import Tensor

Scope = Literal["local", "global"]
_SEARCH_STEPS = 14


def step(group: Group, round_to: int) -> int:
    """Return the multiple of units that a group keeps: ``round_to`` channels, or one head."""
    return 1 if group.kind == "heads" else round_to // math.gcd(round_to, group.width)


def too_narrow(group: Group, round_to: int) -> str | None:
    """Say why a group cannot lose anything; None when it can."""
    if group.units > step(group, round_to):
        return None
    return "it has one head" if group.kind == "heads" else f"it has {_size(group)}, round_to is {round_to}"


def choose(
    groups: Sequence[Group], importance: Mapping[str, Tensor], *, ratio: float, round_to: int, scope: Scope
) -> list[Removal]:
    """Choose the units that go.

    Args:
        groups: Of more units than ``step``.
        importance: Of each unit, by name of the group.
        ratio: Share of the units that goes: of each group (``local``), or of all channels and all heads (``global``).
        round_to: Channels are kept in multiples of this, the nearest to the share.
        scope: ``local``, or ``global``: importance is compared across groups, relative to the mean of each.

    Raises:
        PruneError: When a group would keep less than ``round_to`` channels or one head, with the largest ratio that
            is possible.
    """
    kept = _kept(groups, importance, ratio, scope)
    for group in groups:
        if kept[group.name] < step(group, round_to):
            raise PruneError(
                f"ratio {ratio:g} leaves {group.name!r} {_left(group, kept[group.name])} of {_size(group)}; "
                f"the least is {'one head' if group.kind == 'heads' else f'round_to: {round_to}'}",
                hint=f"at most {_largest(groups, importance, round_to, scope):.4g} is possible here, "
                f"or exclude {group.name!r}",
            )
    removals = []
    for group in groups:
        count = group.units - _rounded(kept[group.name], step(group, round_to), group.units)
        order = importance[group.name].argsort(stable=True)
        if count:
            removals.append(Removal(group, tuple(sorted(int(unit) for unit in order[:count]))))
    return removals


def _kept(groups: Sequence[Group], importance: Mapping[str, Tensor], ratio: float, scope: Scope) -> dict[str, float]:
    """Return the number of units that each group keeps, not rounded."""
    import torch

    if scope == "local":
        return {group.name: group.units * (1.0 - ratio) for group in groups}
    kept: dict[str, float] = {}
    for kind in ("channels", "heads"):
        ranked = [group for group in groups if group.kind == kind]
        if not ranked:
            continue
        relative = {name: _relative(importance[name]) for name in (group.name for group in ranked)}
        values = torch.cat(list(relative.values()))
        # A unit of a grouped convolution is several channels.
        weights = torch.cat([torch.full((group.units,), float(group.width)) for group in ranked])
        order = values.argsort(stable=True)
        goes = torch.zeros(len(values), dtype=torch.bool)
        goes[order] = weights[order].cumsum(0) <= ratio * weights.sum() + 1e-6
        parts = torch.split(goes, [group.units for group in ranked])
        kept |= {group.name: float((~part).sum()) for group, part in zip(ranked, parts, strict=True)}
    return kept


def _relative(importance: Tensor) -> Tensor:
    mean = float(importance.mean())
    return importance / mean if mean > 0 else importance


def _rounded(kept: float, multiple: int, units: int) -> int:
    """Return the multiple nearest to a number of units, halves up: more is kept."""
    return min(max(math.floor(kept / multiple + 0.5), 1) * multiple, units)


def _largest(groups: Sequence[Group], importance: Mapping[str, Tensor], round_to: int, scope: Scope) -> float:
    """Return the largest ratio that leaves every group enough, rounded down to four digits."""
    low, high = 0.0, 1.0
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        kept = _kept(groups, importance, middle, scope)
        enough = all(kept[group.name] >= step(group, round_to) for group in groups)
        low, high = (middle, high) if enough else (low, middle)
    return math.floor(low * 10_000) / 10_000


def _size(group: Group) -> str:
    return f"{group.units} heads" if group.kind == "heads" else f"{group.units * group.width} channels"


def _left(group: Group, kept: float) -> str:
    return f"{kept if group.kind == 'heads' else kept * group.width:.3g}"
