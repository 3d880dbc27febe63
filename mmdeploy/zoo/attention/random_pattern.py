"""Attention of each token to a few others, drawn at random once: work grows with the length, not its square.

Zaheer et al., 2020, "Big Bird", arXiv:2007.14062. Deployable: the pattern is drawn when the block is made and kept as a
buffer, so it is part of the checkpoint and of the graph; a pattern drawn in each call would give one answer in
training, another in the engine, or freeze to whatever was drawn at export.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmdeploy.zoo.attention.heads import Attention, attend_each, check_width
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class RandomAttention(Attention):
    """Tokens that see themselves and ``seen`` others."""

    pattern: Tensor

    def __init__(self, dim: int, heads: int, length: int, seen: int, seed: int = 0) -> None:
        """Draw the pattern.

        Args:
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of the attention.
            length: Most tokens of a sequence.
            seen: Others that a token sees, of ``length``; a shorter sequence has fewer of them.
            seed: Of the pattern.

        Raises:
            ValueError: If there are not as many others.
        """
        super().__init__(dim, heads)
        if not 0 <= seen < length:
            raise ValueError(f"{seen} others of {length} tokens: from 0 to {length - 1}")
        generator = torch.Generator().manual_seed(seed)
        others = torch.rand(length, length, generator=generator).fill_diagonal_(-1.0).argsort(dim=1, descending=True)
        self.register_buffer("pattern", torch.cat([torch.arange(length)[:, None], others[:, :seen]], dim=1))

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
        length = tokens.shape[1]
        if length > len(self.pattern):
            raise ValueError(f"{length} tokens: made for at most {len(self.pattern)}")
        seen = self.pattern[:length]
        inside = seen.clamp(max=length - 1)
        key, value = self.key(tokens)[:, inside], self.value(tokens)[:, inside]
        real = mask.bool()[:, inside] & (seen < length)
        found: Tensor = self.out(attend_each(self.query(tokens), key, value, real, self.heads))
        return found
