"""Attention heads as units: which projections belong to an attention, and which of their channels to a head.

An attention is a module with an integer attribute that counts heads, and linear layers of its own for query, key and
value: three, or one that makes all three. Channels of a head lie together and keep their number, so taking a head out
leaves the scale of the scores alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmdeploy.core.errors import PruneError, did_you_mean
from mmdeploy.prune.groups import WHOLE, Group, Refused, Slice

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTS = ("num_heads", "heads", "n_heads", "n_head", "num_attention_heads")


@dataclass(frozen=True)
class Attention:
    """A module that splits projections into heads.

    Attributes:
        path: Of the module.
        module: It.
        attribute: Name of its count of heads.
    """

    path: str
    module: nn.Module
    attribute: str

    @property
    def heads(self) -> int:
        """The number of heads now."""
        return int(getattr(self.module, self.attribute))

    def projections(self) -> dict[str, nn.Linear]:
        """Return its own linear layers by name."""
        from torch import nn

        return {name: part for name, part in self.module.named_children() if isinstance(part, nn.Linear)}

    def inputs(self) -> list[nn.Linear]:
        """Return the layers that make query, key and value; none when they cannot be told."""
        found = self.projections()
        packed = [part for part in found.values() if part.out_features == 3 * part.in_features]
        if len(packed) == 1:
            return packed
        named = [part for name, part in found.items() if _role(name)]
        return named if len(named) == 3 else []


def find(module: nn.Module, explicit: Mapping[str, str]) -> list[Attention]:
    """Find the attentions of a component.

    Args:
        module: The component.
        explicit: Name of the attribute that counts heads, by path, for those with a name of their own.

    Raises:
        PruneError: When a path or an attribute does not exist.
    """
    from torch import nn

    parts = dict(module.named_modules())
    for path, attribute in explicit.items():
        if path not in parts:
            raise PruneError(f"heads: there is no module {path!r}", hint=did_you_mean(path, parts))
        if type(getattr(parts[path], attribute, None)) is not int:
            integers = [name for name, value in vars(parts[path]).items() if type(value) is int]
            raise PruneError(
                f"heads: {path}.{attribute} is no integer attribute", hint=did_you_mean(attribute, integers)
            )
    found = []
    for path, part in parts.items():
        counts = (
            [explicit[path]] if path in explicit else [name for name in COUNTS if type(vars(part).get(name)) is int]
        )
        if counts and not isinstance(part, nn.MultiheadAttention):
            found.append(Attention(path, part, counts[0]))
    return [attention for attention in found if attention.inputs()]


def head_groups(groups: Iterable[Group | Refused], attentions: Iterable[Attention]) -> Iterator[Group | Refused]:
    """Turn the channel groups of attentions' projections into groups of heads; let the others pass."""
    by_layer = {id(layer): attention for attention in attentions for layer in attention.inputs()}
    packed = {attention.path: attention for attention in attentions if len(attention.inputs()) == 1}
    for group in groups:
        if isinstance(group, Refused):
            if not any(_inside(group.name, attention) for attention in packed.values()):
                yield group
            continue
        made = {id(part.owner) for part in group.slices if part.axis == "out"}
        owners = {by_layer[key].path: by_layer[key] for key in made if key in by_layer}
        if any(path in packed for path in owners):
            continue
        if owners:
            yield _split_group(group, next(iter(owners.values())), made)
        elif any(id(part.owner) in by_layer for part in group.consumers):
            yield Refused(group.name, "its width is that of the tokens that attention reads (the residual stream)")
        else:
            yield group
    for attention in packed.values():
        yield from _packed_groups(attention)


def _split_group(group: Group, attention: Attention, made: set[int]) -> Group | Refused:
    """Join the channels of each head in a group of query, key and value."""
    inputs = attention.inputs()
    widths = {layer.out_features for layer in inputs}
    if len(widths) != 1 or not made.issuperset(id(layer) for layer in inputs):
        return Refused(attention.path or WHOLE, "its queries, keys and values have different widths or are not coupled")
    width = widths.pop()
    if group.units != width or width % attention.heads:
        return Refused(attention.path or WHOLE, f"{group.units} channels do not split into {attention.heads} heads")
    slices = tuple(replace(part, indices=_by_head(part.indices, attention.heads)) for part in group.slices)
    return _heads(attention, slices)


def _by_head(indices: Tensor, heads: int) -> Tensor:
    return indices.reshape(heads, -1).sort(dim=1).values


def _packed_groups(attention: Attention) -> Iterator[Group | Refused]:
    """Yield guesses at the group of an attention with one layer for all three; the first that is sound is right."""
    import torch
    import torch_pruning

    (projection,) = attention.inputs()
    width = projection.out_features // 3
    after = {name: part for name, part in attention.projections().items() if part is not projection}
    readers = {name: part for name, part in after.items() if part.in_features == width}
    if len(readers) != 1 or width % attention.heads:
        yield Refused(attention.path or WHOLE, "the layer that joins its heads cannot be told from its others")
        return
    ((name, reader),) = readers.items()
    (packed,) = (key for key, part in attention.projections().items() if part is projection)
    prefix = f"{attention.path}." if attention.path else ""
    read = torch.arange(width).reshape(attention.heads, -1)
    rows = torch.arange(3 * width)
    layouts = (rows.reshape(3, attention.heads, -1).transpose(0, 1), rows.reshape(attention.heads, -1))
    for made in layouts:  # [3, heads, width of a head], else [heads, 3 x width of a head]: checked on the answers
        yield _heads(
            attention,
            (
                Slice(prefix + packed, projection, "out", torch_pruning.prune_linear_out_channels, made.flatten(1)),
                Slice(prefix + name, reader, "in", torch_pruning.prune_linear_in_channels, read),
            ),
        )


def _heads(attention: Attention, slices: tuple[Slice, ...]) -> Group:
    counts = ((attention.module, attention.attribute, 1),)
    return Group(attention.path or WHOLE, "heads", slices, attention.heads, counts)


def _role(name: str) -> str | None:
    """Return q, k or v for the name of a layer that makes queries, keys or values."""
    plain = name.lower()
    for role, word in (("q", "query"), ("k", "key"), ("v", "value")):
        if word in plain or plain in (role, f"w{role}", f"w_{role}", f"to_{role}", f"{role}_proj", f"{role}_lin"):
            return role
    return None


def _inside(name: str, attention: Attention) -> bool:
    return name in [f"{attention.path}.{child}".lstrip(".") for child in attention.projections()]


def fixed(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield attentions whose heads cannot go, with the reason."""
    from torch import nn

    for path, part in module.named_modules():
        if isinstance(part, nn.MultiheadAttention):
            yield path, "nn.MultiheadAttention ties its heads to the width of its input"
