"""Rotary embeddings over the two axes of an image: attention sees how far apart patches are, not where they are.

Su et al., 2021, "RoFormer", arXiv:2104.09864; on two axes Heo et al., 2024, "Rotary Position Embedding for Vision
Transformer", arXiv:2403.13298, its axial form. Deployable: angles depend on the grid alone, so their cosines and
sines are tables of the graph; numbers are rotated as two real halves. The complex form is the reference: same numbers,
and torch.onnx writes it as halves, too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmdeploy.zoo.attention.heads import Attention, attend
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class RotaryAttention(Attention):
    """Patches of an image that attend to each other, up to a largest grid."""

    cosine: Tensor
    sine: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        grid: tuple[int, int],
        form: Literal["real", "complex"] = "real",
        base: float = 100.0,
    ) -> None:
        """Make the projections and the tables.

        Args:
            dim: Width of the patches: each head's is a multiple of 4.
            heads: How many parts the width is split into.
            grid: Most rows and columns.
            form: How numbers are rotated.
            base: Of the frequencies; 100 is Heo's for axial ones.

        Raises:
            ValueError: If the width of a head is no multiple of 4.
        """
        super().__init__(dim, heads)
        if dim // heads % 4:
            raise ValueError(f"heads of a width of {dim // heads}: a multiple of 4, two axes with a pair each")
        self.grid, self.form = grid, form
        angles = axial_angles(grid, dim // heads, base)
        self.register_buffer("cosine", angles.cos().float(), persistent=False)
        self.register_buffer("sine", angles.sin().float(), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:  # type: ignore[override]
        """Attend.

        Args:
            patches: FP32 [N, rows, columns, dim]; at most as many as the grid has.

        Returns:
            FP32 [N, rows, columns, dim].

        Raises:
            ValueError: If the width is another one, or the grid larger.
        """
        if patches.dim() != 4 or patches.shape[-1] != self.query.in_features:
            raise ValueError(f"patches of {list(patches.shape)}: made for [N, rows, columns, {self.query.in_features}]")
        rows, columns = patches.shape[1:3]
        if rows > self.grid[0] or columns > self.grid[1]:
            raise ValueError(f"a grid of {rows} x {columns}: made for at most {self.grid[0]} x {self.grid[1]}")
        tokens = patches.flatten(1, 2)
        cosine, sine = (table[:rows, :columns].flatten(0, 1) for table in (self.cosine, self.sine))
        rotate = rotate_complex if self.form == "complex" else rotate_real
        query, key = (rotate(self.split(part(tokens)), cosine, sine) for part in (self.query, self.key))
        found = self.join(attend(query, key, self.split(self.value(tokens))))
        return torch.unflatten(found, 1, (rows, columns))


def axial_angles(grid: tuple[int, int], width: int, base: float) -> Tensor:
    """Return by how much each pair is turned at each patch, in radians, FP64 [rows, columns, width / 2].

    The first half of the pairs is turned by the row, the second by the column.
    """
    frequency = base ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    down, across = (torch.arange(size, dtype=torch.float64)[:, None] * frequency for size in grid)
    return torch.cat([down[:, None].expand(-1, grid[1], -1), across[None].expand(grid[0], -1, -1)], dim=-1)


def rotate_real(given: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn pairs of neighbours in [N, heads, L, width] by angles whose cosines and sines are [L, width / 2]."""
    even, odd = torch.unflatten(given, -1, (-1, 2)).unbind(dim=-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


def rotate_complex(given: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Do the same with complex numbers."""
    turned = torch.view_as_complex(torch.unflatten(given, -1, (-1, 2))) * torch.complex(cosine, sine)
    return torch.view_as_real(turned).flatten(-2)
