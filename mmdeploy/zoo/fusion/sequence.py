"""Early fusion of sequences: tokens of all modalities are one sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.transformer import Transformer
from mmdeploy.zoo.fusion.modalities import require_masks, require_modalities, require_widths
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class SequenceFusion(nn.Module):
    """Tokens of all modalities as one sequence for one transformer (ViLT: Kim et al., 2021, arXiv:2102.03334).

    Each modality has a projection and an embedding that says which it is. Padding is masked, so that answers do not
    depend on it; a class token in front can always be attended to, and is what is answered from.
    """

    def __init__(self, widths: Sequence[int], width: int, *, depth: int, heads: int, classes: int) -> None:
        """Make the layers.

        Args:
            widths: Of the tokens of each modality.
            width: Of a token inside.
            depth: Layers.
            heads: Of attention; they divide ``width``.
            classes: Values that come out.

        Raises:
            ValueError: If there are fewer than two modalities, or heads do not divide the width.
        """
        super().__init__()
        require_modalities(widths)
        self.widths = tuple(widths)
        self.projections = nn.ModuleList(nn.Linear(one, width) for one in widths)
        self.modality = nn.Parameter(0.02 * torch.randn(len(widths), width))
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.transformer = Transformer(width, depth, heads)
        self.head = nn.Linear(width, classes)

    def forward(self, *tokens_and_masks: Tensor) -> Tensor:
        """Fuse sequences into scores [N, classes].

        Args:
            tokens_and_masks: Of each modality tokens, FP32 [N, T, width], then of each a mask, BOOL [N, T], true where
                a token is no padding. Lengths may differ.

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        count = len(self.widths)
        tokens, masks = tokens_and_masks[:count], tokens_and_masks[count:]
        require_widths(tokens, self.widths, axes=3)
        require_masks(masks, tokens)
        placed = [
            project(one) + self.modality[place]
            for place, (project, one) in enumerate(zip(self.projections, tokens, strict=True))
        ]
        first = self.first.expand(tokens[0].shape[0], -1, -1)
        seen = torch.cat([torch.ones_like(masks[0][:, :1]), *masks], dim=1)
        answered = self.transformer(torch.cat([first, *placed], dim=1), seen[:, None, None])
        found: Tensor = self.head(answered[:, 0])
        return found
