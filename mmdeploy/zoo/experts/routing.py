"""Which experts a token goes to, and how much of each answer it takes.

Shazeer et al., 2017, "Outrageously Large Neural Networks", arXiv:1701.06538; the loss that balances experts is that of
Fedus et al., 2021, "Switch Transformers", arXiv:2101.03961. Deployable: how many experts a token takes is fixed, and
the loss is a function that training calls, no output and no state of the forward that is served.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class Router(nn.Module):
    """Scores of experts by a token and its modality, the best ``chosen`` of them.

    A route is a decision: where two experts are nearly as good, rounding (INT8, FP16) can choose the other. Keep it in
    float by ``exclude`` if the gate of accuracy says so. What can be pruned is ``hidden``.
    """

    def __init__(self, dim: int, experts: int, chosen: int, modalities: int, hidden: int | None = None) -> None:
        """Make the layers.

        Args:
            dim: Width of the tokens.
            experts: To choose from.
            chosen: Of them for each token.
            modalities: How many there are.
            hidden: Width of a layer with GELU before the scores; no such layer by default.

        Raises:
            ValueError: If more experts are chosen than there are.
        """
        super().__init__()
        if not 1 <= chosen <= experts:
            raise ValueError(f"{chosen} of {experts} experts chosen: from 1 to {experts}")
        self.chosen = chosen
        self.modality = nn.Embedding(modalities, experts)
        self.score: nn.Module = nn.Linear(dim, experts)
        if hidden is not None:
            self.score = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, experts))

    def probabilities(self, tokens: Tensor, modality: Tensor) -> Tensor:
        """Return how well each expert suits each token.

        Args:
            tokens: FP32 [N, L, dim].
            modality: The number of each token's modality, INT64 [N, L].

        Returns:
            FP32 [N, L, experts], with a sum of 1.
        """
        scores: Tensor = self.score(tokens) + self.modality(modality)
        return scores.softmax(dim=-1)

    def forward(self, tokens: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
        """Return shares FP32 [N, L, chosen] with a sum of 1, and the numbers of their experts INT64 [N, L, chosen]."""
        return best(self.probabilities(tokens, modality), self.chosen)


def best(probabilities: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """Return the shares of the best experts [N, L, chosen], renormalised, and their numbers."""
    share, number = probabilities.topk(chosen, dim=-1)
    return share / share.sum(dim=-1, keepdim=True), number


def gates(share: Tensor, number: Tensor, experts: int) -> Tensor:
    """Return the share of every expert, 0 for those not chosen: FP32 [N, L, experts]."""
    table = number[..., None] == torch.arange(experts, device=number.device)
    return (table.to(share.dtype) * share[..., None]).sum(dim=-2)


def balance_loss(probabilities: Tensor, number: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return how unevenly experts are used: 1 when evenly, up to their number when one does it all.

    Args:
        probabilities: FP32 [N, L, experts].
        number: Of the experts chosen, INT64 [N, L, chosen].
        mask: What of the tokens is real, [N, L]; all by default.

    Returns:
        A number; its gradient reaches the probabilities.
    """
    experts = probabilities.shape[-1]
    real = torch.ones_like(probabilities[..., 0]) if mask is None else mask.bool().to(probabilities.dtype)
    used = (number[..., None] == torch.arange(experts, device=number.device)).to(probabilities.dtype).mean(dim=-2)
    count = real.sum()
    share = (used * real[..., None]).sum(dim=(0, 1)) / count
    likely = (probabilities * real[..., None]).sum(dim=(0, 1)) / count
    return experts * (share * likely).sum()
