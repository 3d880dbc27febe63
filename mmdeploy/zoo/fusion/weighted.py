"""Fusion by weights that a sample gives its own modalities: attention, gates, and what is left of missing ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.fusion.modalities import require_modalities, require_widths
from mmdeploy.zoo.outside import tells_shapes

#: The score of a missing modality: it is finite, so that a sample without any gets no NaN.
_FAR = -1e4


@tells_shapes
class AttentionFusion(nn.Module):
    """A weighted mean of modalities, weights by attention to each (Hori et al., 2017, arXiv:1701.03126).

    A modality is projected, and scored by v · tanh(W x). It deploys as linear layers and a softmax.
    """

    def __init__(self, widths: Sequence[int], width: int, hidden: int) -> None:
        """Make the layers.

        Args:
            widths: Of the features of each modality.
            width: Of what is fused, and comes out.
            hidden: Of the layer that scores.

        Raises:
            ValueError: If there are fewer than two modalities.
        """
        super().__init__()
        require_modalities(widths)
        self.widths = tuple(widths)
        self.projections = nn.ModuleList(nn.Linear(one, width) for one in widths)
        self.attend = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse features FP32 [N, width] of each modality.

        Returns:
            What is fused, FP32 [N, width], and the weights, FP32 [N, modalities], which sum to 1.

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        require_widths(features, self.widths)
        parts = [project(one) for project, one in zip(self.projections, features, strict=True)]
        projected = torch.stack(parts, dim=1)
        weights = self.score(torch.tanh(self.attend(projected))).squeeze(-1).softmax(dim=1)
        return (weights[..., None] * projected).sum(dim=1), weights


@tells_shapes
class GatedFusion(nn.Module):
    """Gated multimodal units: each value of each modality has a gate (Arevalo et al., 2017, arXiv:1702.01992).

    A gate sees the features of all modalities. Two modalities share one, which goes to one as much as it leaves the
    other; more have one each.
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        """Make the layers.

        Args:
            widths: Of the features of each modality.
            width: Of what comes out.

        Raises:
            ValueError: If there are fewer than two modalities.
        """
        super().__init__()
        require_modalities(widths)
        self.widths = tuple(widths)
        self.projections = nn.ModuleList(nn.Linear(one, width, bias=False) for one in widths)
        gates = 1 if len(widths) == 2 else len(widths)
        self.gates = nn.ModuleList(nn.Linear(sum(widths), width, bias=False) for _ in range(gates))

    def forward(self, *features: Tensor) -> Tensor:
        """Fuse features FP32 [N, width] of each modality into [N, width].

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        require_widths(features, self.widths)
        together = torch.cat(features, dim=1)
        opened = [torch.sigmoid(gate(together)) for gate in self.gates]
        if len(opened) == 1:
            opened.append(1 - opened[0])
        parts = [torch.tanh(project(one)) for project, one in zip(self.projections, features, strict=True)]
        return torch.stack([gate * part for gate, part in zip(opened, parts, strict=True)], dim=1).sum(dim=1)


@tells_shapes
class AdaptiveFusion(nn.Module):
    """A weighted mean of the modalities that are there (EmbraceNet: Choi and Lee, 2019, arXiv:1904.09078).

    The importance of each is shared out anew among those that are present: a missing one counts for nothing, whatever
    stands in its place. EmbraceNet draws, for each value, from which modality it comes; here is the mean over the
    draws, which is the same each time. Which are present is an input, so the graph has no branch.
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        """Make the layers.

        Args:
            widths: Of the features of each modality.
            width: Of what comes out.

        Raises:
            ValueError: If there are fewer than two modalities.
        """
        super().__init__()
        require_modalities(widths)
        self.widths = tuple(widths)
        self.docking = nn.ModuleList(nn.Linear(one, width) for one in widths)
        self.importance = nn.ModuleList(nn.Linear(width, 1) for _ in widths)
        self.absent = nn.Parameter(torch.zeros(width))

    def forward(self, *features_and_presence: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the modalities of each sample that are there.

        Args:
            features_and_presence: Features of each modality, FP32 [N, width], finite even where missing; then which are
                there, FP32 [N, modalities], 1 or 0.

        Returns:
            What is fused, FP32 [N, width], a learned vector where a sample has no modality; and the weights, FP32
            [N, modalities], which sum to 1, or to 0 there.

        Raises:
            ValueError: If there are others than those that it was made for.
        """
        *features, presence = features_and_presence
        require_widths(features, self.widths)
        require_widths([presence], [len(self.widths)])
        docked = [torch.relu(dock(one)) for dock, one in zip(self.docking, features, strict=True)]
        scores = torch.cat([score(one) for score, one in zip(self.importance, docked, strict=True)], dim=1)
        weights = torch.where(presence > 0, scores, _FAR).softmax(dim=1) * presence
        none = 1 - presence.amax(dim=1, keepdim=True)
        return (weights[..., None] * torch.stack(docked, dim=1)).sum(dim=1) + none * self.absent, weights
