"""What all fusions ask of what they are given, and names for what they take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class Named(nn.Module):
    """A fusion as a component: what it takes in order comes by name, as a server sends it."""

    def __init__(self, fusion: nn.Module, names: Sequence[str]) -> None:
        """Name the arguments.

        Args:
            fusion: A module whose ``forward`` takes tensors in order.
            names: One each.

        Raises:
            ValueError: If a name is there twice.
        """
        super().__init__()
        if len(set(names)) < len(names):
            raise ValueError(f"names are {list(names)}: each one once")
        self.fusion, self.names = fusion, tuple(names)

    def forward(self, **tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Pass the tensors on, in order.

        Raises:
            ValueError: If the names are others.
        """
        if set(tensors) != set(self.names):
            raise ValueError(f"given {sorted(tensors)}, made for {sorted(self.names)}")
        found: Tensor | tuple[Tensor, ...] = self.fusion(*(tensors[name] for name in self.names))
        return found


def require_modalities(widths: Sequence[int], least: int = 2) -> None:
    """Ask that there are modalities to fuse, each of some width.

    Raises:
        ValueError: If not.
    """
    if len(widths) < least or min(widths, default=0) < 1:
        raise ValueError(f"widths are {list(widths)}: {least} or more modalities, each 1 or wider")


def require_widths(tensors: Sequence[Tensor], widths: Sequence[int], axes: int = 2) -> None:
    """Ask that what is given has the widths that a fusion was made for, on the last of so many axes.

    Raises:
        ValueError: If not.
    """
    found = [list(tensor.shape) for tensor in tensors]
    if [shape[-1] for shape in found] != list(widths) or any(len(shape) != axes for shape in found):
        batch = ", ".join(["N", *["T"] * (axes - 2)])
        wanted = ", ".join(f"[{batch}, {width}]" for width in widths)
        raise ValueError(f"modalities of {', '.join(map(str, found))}, made for {wanted}")


def require_masks(masks: Sequence[Tensor], tokens: Sequence[Tensor]) -> None:
    """Ask that there is a mask for each sequence, of its length.

    Raises:
        ValueError: If not.
    """
    pairs = zip(masks, tokens, strict=False)
    # Number by number: comparing whole shapes would fix them in an export.
    if len(masks) != len(tokens) or any(mask.ndim != 2 or mask.shape[1] != one.shape[1] for mask, one in pairs):
        shapes = ", ".join(str(list(mask.shape)) for mask in masks)
        raise ValueError(f"masks of {shapes or 'none'} for {len(tokens)} sequences: one each, [N, T] of the same T")
