"""Fusion by products: how values of one modality go with values of another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.fusion.modalities import require_modalities, require_widths
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class BilinearFusion(nn.Module):
    """Each value that comes out is a form x A y of two modalities (Tenenbaum and Freeman, 2000, Neural Computation 12).

    As ``nn.Bilinear``, which engines take as an Einsum that none of them has in INT8. Here one linear layer makes, of
    the first modality, a matrix for the second: a plain product that is quantized.
    """

    def __init__(self, widths: tuple[int, int], width: int) -> None:
        """Make the layers.

        Args:
            widths: Of the features of the two modalities.
            width: Of what comes out.

        Raises:
            ValueError: If there are not two.
        """
        super().__init__()
        require_modalities(widths)
        if len(widths) != 2:
            raise ValueError(f"widths are {list(widths)}: two modalities; `LowRankFusion` takes more")
        self.widths, self.width = tuple(widths), width
        self.form = nn.Linear(widths[0], width * widths[1], bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Fuse features FP32 [N, width] of both into [N, width].

        Raises:
            ValueError: If they have other widths than it was made for.
        """
        require_widths([first, second], self.widths)
        matrices = self.form(first).reshape(-1, self.width, self.widths[1])
        found: Tensor = (matrices * second[:, None]).sum(dim=2) + self.bias
        return found


@tells_shapes
class TensorFusion(nn.Module):
    """The outer product of all modalities, each with a 1 in front (Zadeh et al., 2017, arXiv:1707.07250).

    So it holds every value, every product of two, and so on. Its size is the product of the widths: for small ones,
    else `LowRankFusion`. Products are of broadcast axes, which every engine has; then a linear layer.
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        """Make the layer.

        Args:
            widths: Of the features of each modality.
            width: Of what comes out.

        Raises:
            ValueError: If there are fewer than two modalities, or their product has more than a million values.
        """
        super().__init__()
        require_modalities(widths)
        size = 1
        for one in widths:
            size *= one + 1
        if size > 1_000_000:
            raise ValueError(
                f"widths {list(widths)} make a product of {size} values: at most 1000000; use LowRankFusion"
            )
        self.widths = tuple(widths)
        self.output = nn.Linear(size, width)

    def forward(self, *features: Tensor) -> Tensor:
        """Fuse features FP32 [N, width] of each modality into [N, width].

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        require_widths(features, self.widths)
        product = _with_one(features[0])
        for one in features[1:]:
            product = (product[:, :, None] * _with_one(one)[:, None]).flatten(1)
        found: Tensor = self.output(product)
        return found


@tells_shapes
class LowRankFusion(nn.Module):
    """`TensorFusion` whose layer is a sum of so many products of rank one (Liu et al., 2018, arXiv:1806.00064).

    The outer product is never there: each modality has a linear layer to ``rank`` vectors, which are multiplied value
    by value and summed by learned weights.
    """

    def __init__(self, widths: Sequence[int], width: int, rank: int) -> None:
        """Make the layers.

        Args:
            widths: Of the features of each modality.
            width: Of what comes out.
            rank: Products that are summed.

        Raises:
            ValueError: If there are fewer than two modalities, or the rank is none.
        """
        super().__init__()
        require_modalities(widths)
        if rank < 1:
            raise ValueError(f"the rank is {rank}: 1 or more")
        self.widths, self.width, self.rank = tuple(widths), width, rank
        # The bias of each is the factor of the 1 in front of its features.
        self.factors = nn.ModuleList(nn.Linear(one, rank * width) for one in widths)
        self.shares = nn.Parameter(torch.full((rank, 1), rank**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, *features: Tensor) -> Tensor:
        """Fuse features FP32 [N, width] of each modality into [N, width].

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        require_widths(features, self.widths)
        product = self.factors[0](features[0])
        for factor, one in zip(self.factors[1:], features[1:], strict=True):
            product = product * factor(one)
        found: Tensor = (product.reshape(-1, self.rank, self.width) * self.shares).sum(dim=1) + self.bias
        return found


def _with_one(features: Tensor) -> Tensor:
    """Put a 1 in front of features [N, width]."""
    return torch.cat([torch.ones_like(features[:, :1]), features], dim=1)
