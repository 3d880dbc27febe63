"""Intermediate fusion: each modality has layers of its own, and a network between them listens at chosen depths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.fusion.modalities import require_modalities, require_widths
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class IntermediateFusion(nn.Module):
    """A central network beside one of each modality (CentralNet: Vielzeuf et al., 2018, arXiv:1808.07275).

    At each chosen depth the central network takes a learned weighted sum of what the modalities have there and of what
    it has itself; between, modalities go on alone. One depth makes it mid-level fusion, all of them progressive fusion.
    Which depths is decided when it is made, so the graph has no branch.
    """

    def __init__(self, widths: Sequence[int], hidden: int, *, at: Sequence[int], classes: int) -> None:
        """Make the layers.

        Args:
            widths: Of the features of each modality.
            hidden: Of all layers.
            at: Behind which layers of the modalities, from 1, the central network listens; they end at the last.
            classes: Values that come out.

        Raises:
            ValueError: If there are fewer than two modalities, or depths do not ascend from 1 or more.
        """
        super().__init__()
        require_modalities(widths)
        if not at or sorted(set(at)) != list(at) or at[0] < 1:
            raise ValueError(f"fused at {list(at)}: depths of 1 or more, ascending, each once")
        self.widths, self.at = tuple(widths), tuple(at)
        self.towers = nn.ModuleList(
            nn.ModuleList(nn.Linear(width if layer == 0 else hidden, hidden) for layer in range(at[-1]))
            for width in widths
        )
        self.central = nn.ModuleList(nn.Linear(hidden, hidden) for _ in at)
        # CentralNet's start: a mean of the modalities.
        self.shares = nn.Parameter(torch.full((len(at), len(widths) + 1), 1 / len(widths)))
        self.head = nn.Linear(hidden, classes)

    def forward(self, *features: Tensor) -> Tensor:
        """Fuse features FP32 [N, width] of each modality into [N, classes].

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        require_widths(features, self.widths)
        towers, central = list(features), None
        for layer in range(self.at[-1]):
            towers = [
                torch.relu(tower.get_submodule(str(layer))(one)) for tower, one in zip(self.towers, towers, strict=True)
            ]
            if layer + 1 in self.at:
                place = self.at.index(layer + 1)
                parts = towers if central is None else [*towers, central]
                mixed = sum(self.shares[place, index] * part for index, part in enumerate(parts))
                central = torch.relu(self.central[place](mixed))
        found: Tensor = self.head(central)
        return found
