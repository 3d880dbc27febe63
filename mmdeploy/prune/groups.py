"""What goes together when a unit (a channel, an attention head) is taken out: slices of several layers.

Groups of channels come from torch-pruning's dependency graph; those that cannot be pruned soundly are refused here
with a reason. `mmdeploy.prune.attention` turns the groups of attention's projections into heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmdeploy.prune.bounds import UntraceableError
from mmdeploy.prune.tracing import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

#: torch-pruning's names of layers that are pruned here; the axis says whether widths before and after are one.
_AXES = {
    "LINEAR": None, "CONV": None, "DEPTHWISE_CONV": "both", "BN": "both", "LN": "both", "GN": "both", "IN": "both",
    "PRELU": "both", "EMBED": "both", "PARAMETER": "both",
}  # fmt: skip
_FUNCTIONAL = ("CONCAT", "SPLIT", "ELEMENTWISE", "RESHAPE", "UNBIND", "EXPAND", "SLICE", "OUTPUT")


#: How a component that is itself a layer or an attention is called.
WHOLE = "the component itself"


@dataclass(frozen=True)
class Slice:
    """The part of one layer that belongs to each unit of a group.

    Attributes:
        layer: Path of the module, or name of the parameter.
        owner: The module, or the module that holds the parameter.
        axis: ``out`` (rows), ``in`` (columns), or ``both`` where the layer keeps channels apart.
        parameter: Attribute of a parameter that no layer holds, such as a scale; empty for a layer.
        cut: Takes the owner and sorted indices out; for a parameter, returns the shorter one.
        indices: Channels of each unit along the axis, int64 [units, channels a unit].
    """

    layer: str
    owner: nn.Module
    axis: str
    cut: Callable[[Any, list[int]], Any]
    indices: Tensor
    parameter: str = ""


@dataclass(frozen=True)
class Group:
    """Slices that are taken out together.

    Attributes:
        name: Path of the layer or attention that it is called after.
        kind: ``channels`` or ``heads``.
        slices: What belongs to its units.
        units: Number of units.
        attributes: Integer attributes that count units or channels: module, name, value of one unit.
    """

    name: str
    kind: str
    slices: tuple[Slice, ...]
    units: int
    attributes: tuple[tuple[nn.Module, str, int], ...] = field(default=())

    @property
    def consumers(self) -> tuple[Slice, ...]:
        """Slices by which what follows reads the units."""
        return tuple(part for part in self.slices if part.axis == "in")

    @property
    def width(self) -> int:
        """Channels of one unit in the layer that makes them."""
        made = [part.indices.shape[1] for part in self.slices if part.axis == "out"]
        return made[0] if made else 1


@dataclass(frozen=True)
class Refused:
    """A group that stays as it is, and why."""

    name: str
    reason: str


def channel_groups(graph: Graph, module: nn.Module) -> Iterator[Group | Refused]:
    """Iterate over the groups of a component's linear layers and convolutions, of one channel a unit."""
    import torch_pruning

    shared = _shared(module)
    roots = (torch_pruning.ops.TORCH_CONV, torch_pruning.ops.TORCH_LINEAR)
    seen: set[nn.Module] = set()
    for root in list(graph.dependencies.module2node):
        if not isinstance(root, roots) or root not in graph.paths or root in seen:
            continue
        try:
            found = graph.whole_group(root)
            seen.update(item.dep.target.module for item in found if graph.cuts_outputs(item.dep))
            yield _translated(found, graph, shared)
        except UntraceableError as reason:
            yield Refused(graph.paths[root] or WHOLE, str(reason))


def _translated(found: Any, graph: Graph, shared: Mapping[int, str]) -> Group | Refused:
    root = found[0].dep.target.module
    name = graph.paths[root] or WHOLE
    if (reason := _refusal(found, graph, shared)) is not None:
        return Refused(name, reason)
    units = _units(found, graph)
    if units is None:
        return Refused(name, "its channels are split, repeated or reshaped in a way that torch-pruning does not follow")
    slices = tuple(_slice(item.dep, indices, graph) for item, indices in units)
    group = Group(name, "channels", slices, len(units[0][1]))
    return group if group.consumers else Refused(name, "no layer reads its channels")


def _refusal(found: Any, graph: Graph, shared: Mapping[int, str]) -> str | None:
    for item in found:
        node = item.dep.target
        kind = node.type.name
        if id(node.module) in graph.fixed:
            return f"its width is that of {graph.fixed[id(node.module)]}"
        if kind == "MHA":
            return f"its width is that of {graph.paths[node.module]!r}: nn.MultiheadAttention ties heads to its input"
        if kind not in _AXES and kind not in _FUNCTIONAL:
            return f"it is coupled to {graph.paths.get(node.module, kind)!r}, whose width is not pruned"
        tensors = [node.module] if kind == "PARAMETER" else list(getattr(node.module, "_parameters", {}).values())
        for tensor in tensors:
            if id(tensor) in shared:
                return f"its weight is shared by {shared[id(tensor)]}"
    return None


def _units(found: Any, graph: Graph) -> list[tuple[Any, Tensor]] | None:
    """Return for each layer of a group the channels of each unit [units, channels]; None when they do not add up."""
    layers = [item for item in found if item.dep.target.type.name in _AXES]
    root = layers[0].dep
    channels = len(layers[0].idxs)
    probe = graph.group(root.target.module, root.handler, [0])
    if len(probe[0].idxs) != 1:
        return _coupled_units(graph, root, channels)
    by_layer = []
    for item in layers:
        owned: list[list[int]] = [[] for _ in range(channels)]
        for index, origin in zip(item.idxs, item.root_idxs, strict=True):
            if origin is None or not 0 <= index < _channels(item.dep, graph):
                return None
            owned[origin].append(index)
        by_layer.append((item, owned))
    return _stacked(by_layer, _group_count(layers))


def _coupled_units(graph: Graph, root: Any, channels: int) -> list[tuple[Any, Tensor]] | None:
    """Do the same where one channel of the root takes others of it along, as in gated linear units."""
    left = set(range(channels))
    order: list[Any] = []
    owned: dict[tuple[int, str], list[list[int]]] = {}
    units = 0
    while left:
        taken = graph.group(root.target.module, root.handler, [min(left)])
        layers = [item for item in taken if item.dep.target.type.name in _AXES]
        for item in layers:
            key = (id(item.dep.target), item.dep.handler.__name__)
            if key not in owned:
                owned[key] = []
                order.append((item, owned[key]))
            if any(not 0 <= index < _channels(item.dep, graph) for index in item.idxs):
                return None
            owned[key].append(sorted(item.idxs))
        if not left.issuperset(layers[0].idxs):
            return None
        left -= set(layers[0].idxs)
        units += 1
    return _stacked(order, 1) if all(len(lists) == units for _, lists in order) else None


def _stacked(by_layer: list[tuple[Any, list[list[int]]]], groups: int) -> list[tuple[Any, Tensor]] | None:
    """Join channels at the same place of each of ``groups`` channel groups into one unit."""
    import torch

    channels = len(by_layer[0][1])
    if channels % groups:
        return None
    size = channels // groups
    stacked = []
    for item, owned in by_layer:
        joined = [
            sorted(index for part in range(groups) for index in owned[part * size + unit]) for unit in range(size)
        ]
        if len({len(unit) for unit in joined}) != 1 or not joined[0]:
            return None
        stacked.append((item, torch.tensor(joined, dtype=torch.int64)))
    return stacked


def _group_count(layers: list[Any]) -> int:
    """Return the number of channel groups that must stay equal: of grouped convolutions and group norms."""
    counts = [1]
    for item in layers:
        kind, layer = item.dep.target.type.name, item.dep.target.module
        if kind == "CONV":
            counts.append(layer.groups)
        elif kind == "GN":
            counts.append(layer.num_groups)
    return math.lcm(*counts)


def _channels(dep: Any, graph: Graph) -> int:
    count = graph.dependencies.get_out_channels if _axis(dep) == "out" else graph.dependencies.get_in_channels
    return int(count(dep.target) or 0)


def _axis(dep: Any) -> str:
    fixed = _AXES[dep.target.type.name]
    return fixed or ("out" if dep.handler.__name__ == "prune_out_channels" else "in")


def _slice(dep: Any, indices: Tensor, graph: Graph) -> Slice:
    node = dep.target
    if node.type.name != "PARAMETER":
        return Slice(graph.paths[node.module], node.module, _axis(dep), dep.handler, indices)
    name = graph.dependencies._param_to_name[node.module].removeprefix("component.")
    holder, _, attribute = name.rpartition(".")
    owner = next(part for part, path in graph.paths.items() if path == holder)
    dimension = node.pruning_dim

    def shorten(parameter: nn.Parameter, removed: list[int]) -> Any:
        dep.handler.__self__.pruning_dim = dimension
        return dep.handler(parameter, removed)

    return Slice(name, owner, "both", shorten, indices, attribute)


def _shared(module: nn.Module) -> dict[int, str]:
    """Return who holds the parameters that several modules hold, by id."""
    holders: dict[int, list[str]] = {}
    for path, part in module.named_modules():
        for attribute, parameter in part._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(f"{path}.{attribute}".lstrip("."))
    return {key: " and ".join(names) for key, names in holders.items() if len(names) > 1}
