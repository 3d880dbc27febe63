"""Hierarchical pooling: tokens to a vector a modality, these to one, by attention at both levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.fusion.modalities import require_masks, require_modalities, require_widths
from mmdeploy.zoo.outside import tells_shapes

#: Added to the scores of padding: it is finite, so that all padding gives the mean instead of NaN.
_FAR = -1e4


@tells_shapes
class AttentionPooling(nn.Module):
    """Tokens to their weighted mean, weights by a learned vector: softmax of u · tanh(W x)."""

    def __init__(self, width: int, hidden: int) -> None:
        """Make the layers: ``hidden`` is the width of W x."""
        super().__init__()
        self.attend, self.score = nn.Linear(width, hidden), nn.Linear(hidden, 1, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool tokens.

        Args:
            tokens: FP32 [N, T, width].
            mask: BOOL [N, T], true where a token is no padding.

        Returns:
            FP32 [N, width].
        """
        scores = self.score(torch.tanh(self.attend(tokens))).squeeze(-1)
        if mask is not None:
            scores = torch.where(mask, scores, _FAR)
        found: Tensor = (scores.softmax(dim=1)[..., None] * tokens).sum(dim=1)
        return found


@tells_shapes
class HierarchicalPooling(nn.Module):
    """Tokens of each modality pooled, then the modalities ("Hierarchical attention networks", Yang et al., 2016).

    Every level is a softmax over an axis of any length; padding is masked by a number far below all others.
    """

    def __init__(self, widths: Sequence[int], width: int, hidden: int) -> None:
        """Make the layers.

        Args:
            widths: Of the tokens of each modality.
            width: Of what comes out.
            hidden: Of the layers that score.

        Raises:
            ValueError: If there are fewer than two modalities.
        """
        super().__init__()
        require_modalities(widths)
        self.widths = tuple(widths)
        self.projections = nn.ModuleList(nn.Linear(one, width) for one in widths)
        self.within = nn.ModuleList(AttentionPooling(width, hidden) for _ in widths)
        self.across = AttentionPooling(width, hidden)

    def forward(self, *tokens_and_masks: Tensor) -> Tensor:
        """Pool sequences into one vector [N, width].

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
        pooled = [
            pool(torch.tanh(project(one)), mask)
            for project, pool, one, mask in zip(self.projections, self.within, tokens, masks, strict=True)
        ]
        found: Tensor = self.across(torch.stack(pooled, dim=1))
        return found
