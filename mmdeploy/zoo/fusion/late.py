"""Late fusion: each modality is judged alone, and the judgements are weighed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.fusion.modalities import require_modalities, require_widths
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class LateFusion(nn.Module):
    """Scores of each modality, summed by learned weights (Snoek et al., 2005, "Early versus late fusion", ACM MM).

    Weights are a softmax over modalities, one a class where that is asked for: of positive weights that sum to one,
    none can outvote all others by its scale. They depend on no input, so engines fold them into constants.
    """

    def __init__(self, widths: Sequence[int], classes: int, *, weight_per_class: bool = False) -> None:
        """Make a head for each modality.

        Args:
            widths: Of the features of each modality.
            classes: Scores that come out.
            weight_per_class: Whether modalities are weighed anew for each class.

        Raises:
            ValueError: If there are fewer than two modalities.
        """
        super().__init__()
        require_modalities(widths)
        self.widths = tuple(widths)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in widths)
        self.logits = nn.Parameter(torch.zeros(len(widths), classes if weight_per_class else 1))

    def forward(self, *features: Tensor) -> Tensor:
        """Fuse features FP32 [N, width] of each modality into scores [N, classes].

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        require_widths(features, self.widths)
        scores = torch.stack([head(one) for head, one in zip(self.heads, features, strict=True)], dim=1)
        return (self.logits.softmax(dim=0) * scores).sum(dim=1)
