"""Pixels as decoders give them, UINT8 [N, height, width, channels], to what vision encoders take.

Between steps of an ensemble UINT8 is a quarter of the bytes of FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class NormalisePixels(nn.Module):
    """Pixels to (pixels * scale - mean) / std, channels first; nothing in it is trained."""

    factor: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], scale: float = 1 / 255) -> None:
        """Take the statistics of the training images.

        Args:
            mean: One a channel, of scaled pixels.
            std: One a channel.
            scale: What pixels are multiplied by first.

        Raises:
            ValueError: If there are not as many of both, or one of ``std`` is not above 0.
        """
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean has {len(mean)} values and std {len(std)}: one a channel, those of std above 0")
        deviation = torch.tensor(std, dtype=torch.float64)
        self.register_buffer("factor", (scale / deviation).float(), persistent=False)
        self.register_buffer("offset", (torch.tensor(mean, dtype=torch.float64) / deviation).float(), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Turn pixels [N, H, W, C] into FP32 [N, C, H, W]."""
        return (pixels.float() * self.factor - self.offset).permute(0, 3, 1, 2)


@tells_shapes
class ResizePixels(nn.Module):
    """Images of one size to another by two matrix products, as Pillow resizes floats: smoothed where it shrinks."""

    rows: Tensor
    columns: Tensor

    def __init__(
        self, size: tuple[int, int], to: tuple[int, int], filter: Literal["bilinear", "bicubic"] = "bicubic"
    ) -> None:
        """Make the products.

        Args:
            size: Height and width that come.
            to: Height and width that are wanted.
            filter: Between pixels.

        Raises:
            ValueError: If a size is not above 0.
        """
        super().__init__()
        if min(*size, *to) < 1:
            raise ValueError(f"from {size} to {to}: heights and widths are 1 or more")
        self.size = size
        for name, (have, want) in {"rows": (size[0], to[0]), "columns": (size[1], to[1])}.items():
            self.register_buffer(name, resampling(have, want, filter), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images FP32 [N, C, H, W] into [N, C, wanted height, wanted width].

        Raises:
            ValueError: If they are of another size, while tracing or in eager mode.
        """
        if tuple(images.shape[-2:]) != self.size:
            raise ValueError(f"images of {list(images.shape[-2:])}, made for {list(self.size)}")
        return self.rows @ images @ self.columns.T


def resampling(have: int, want: int, filter: Literal["bilinear", "bicubic"]) -> Tensor:
    """Return the weight of each pixel that comes in each that is wanted [want, have]."""
    kernel, support = _KERNELS[filter]
    ratio = have / want
    stretch = max(ratio, 1.0)
    weights = torch.zeros(want, have, dtype=torch.float64)
    for index in range(want):
        center = (index + 0.5) * ratio
        first = max(int(center - support * stretch + 0.5), 0)
        last = min(int(center + support * stretch + 0.5), have)
        for pixel in range(first, last):
            weights[index, pixel] = kernel(abs(pixel + 0.5 - center) / stretch)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _triangle(distance: float) -> float:
    return max(1 - distance, 0.0)


def _cubic(distance: float) -> float:
    """Weigh by Keys' kernel with a = -0.5, Pillow's."""
    if distance < 1:
        return 1.5 * distance**3 - 2.5 * distance**2 + 1
    return -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2 if distance < 2 else 0.0


_KERNELS: dict[str, tuple[Callable[[float], float], float]] = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}
