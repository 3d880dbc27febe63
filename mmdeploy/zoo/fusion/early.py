"""Early fusion of features: they are put together before anything is learned of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.fusion.modalities import require_modalities, require_widths
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class EarlyFusion(nn.Module):
    """Features side by side, then an MLP (Ngiam et al., 2011, "Multimodal deep learning", ICML).

    It deploys as two linear layers behind one Concat. Its widths can be pruned, but for what comes in and goes out.
    """

    def __init__(self, widths: Sequence[int], hidden: int, classes: int) -> None:
        """Make the layers.

        Args:
            widths: Of the features of each modality.
            hidden: Of the layer between.
            classes: Values that come out.

        Raises:
            ValueError: If there are fewer than two modalities.
        """
        super().__init__()
        require_modalities(widths)
        self.widths = tuple(widths)
        self.mlp = nn.Sequential(nn.Linear(sum(widths), hidden), nn.GELU(), nn.Linear(hidden, classes))

    def forward(self, *features: Tensor) -> Tensor:
        """Fuse features FP32 [N, width] of each modality into [N, classes].

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        require_widths(features, self.widths)
        found: Tensor = self.mlp(torch.cat(features, dim=1))
        return found
