"""Attention to a fixed number of mixtures of the keys and values, whatever the length.

Wang et al., 2020, "Linformer: Self-Attention with Linear Complexity", arXiv:2006.04768. Deployable: a sequence is
filled up to the longest with zeros, so mixing is one linear layer along the length, which is quantized like any other,
and padding adds exactly nothing. Tokens are mixed before they are projected, which is the same but for the bias, takes
fewer products, and lets heads be pruned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.zoo.attention.heads import Attention, attend, check_width
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class LowRankAttention(Attention):
    """Tokens that attend to ``rank`` mixtures of up to ``length`` keys, and as many of the values."""

    def __init__(self, dim: int, heads: int, length: int, rank: int) -> None:
        """Make the projections.

        Args:
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of the attention.
            length: Most tokens of a sequence.
            rank: Mixtures.

        Raises:
            ValueError: If there are more mixtures than tokens.
        """
        super().__init__(dim, heads)
        if not 1 <= rank <= length:
            raise ValueError(f"a rank of {rank} for {length} tokens: from 1 to {length}")
        # E and F of the paper.
        self.mix_e = nn.Linear(length, rank, bias=False)
        self.mix_f = nn.Linear(length, rank, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Attend.

        Args:
            tokens: FP32 [N, L, dim]; L is at most ``length``.
            mask: What of them is real, [N, L], BOOL or numbers that are 0 at padding.

        Returns:
            FP32 [N, L, dim]; what stands at padding means nothing.

        Raises:
            ValueError: If the width is another one, or there are more tokens.
        """
        check_width("tokens", tokens, self.query.in_features)
        most, length = self.mix_e.in_features, tokens.shape[1]
        if length > most:
            raise ValueError(f"{length} tokens: made for at most {most}")
        real = torch.where(mask.bool()[..., None], tokens, 0.0)
        mixed = functional.pad(real, (0, 0, 0, most - length)).transpose(1, 2)
        key = self.key(self.mix_e(mixed).transpose(1, 2))
        value = self.value(self.mix_f(mixed).transpose(1, 2))
        return self.join(attend(self.split(self.query(tokens)), self.split(key), self.split(value)))
