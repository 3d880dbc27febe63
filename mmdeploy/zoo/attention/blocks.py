"""Attention within blocks of a sequence, and between their summaries.

Deployable: blocks and heads are one axis, so attention has four; the number of blocks stays free. Lengths are whole
blocks: fill up what is shorter and say so in the mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.attention.heads import Attention, attend, check_width
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class BlockAttention(Attention):
    """Tokens that see those of their block: attention with a mask of squares along the diagonal, for less work.

    Qiu et al., 2019, "Blockwise Self-Attention for Long Document Understanding", arXiv:1911.02972, its identity
    pattern.
    """

    def __init__(self, dim: int, heads: int, block: int) -> None:
        """Make the attention.

        Args:
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of the attention.
            block: Tokens in a block.

        Raises:
            ValueError: If the block is empty, or the width does not split into the heads.
        """
        super().__init__(dim, heads)
        if block < 1:
            raise ValueError(f"blocks of {block} tokens: 1 or more")
        self.block = block

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Attend.

        Args:
            tokens: FP32 [N, L, dim]; L is a multiple of ``block``.
            mask: What of them is real, [N, L], BOOL or numbers that are 0 at padding.

        Returns:
            FP32 [N, L, dim]; what stands at padding means nothing.

        Raises:
            ValueError: If the width is another one, or the last block is not whole.
        """
        check_width("tokens", tokens, self.query.in_features)
        if tokens.shape[1] % self.block:
            raise ValueError(
                f"{tokens.shape[1]} tokens in blocks of {self.block}: fill up to a multiple, and mask that"
            )
        query, key, value = (self._in_blocks(part(tokens)) for part in (self.query, self.key, self.value))
        real = cut(mask.bool(), self.block)[:, :, None].expand(-1, -1, self.heads, -1).flatten(1, 2)
        mixed = torch.unflatten(attend(query, key, value, real[:, :, None]), 1, (-1, self.heads))
        found: Tensor = self.out(mixed.transpose(2, 3).flatten(3).flatten(1, 2))
        return found

    def _in_blocks(self, wide: Tensor) -> Tensor:
        """Turn [N, L, dim] into [N, blocks * heads, block, width of a head]."""
        return torch.unflatten(cut(wide, self.block), -1, (self.heads, -1)).transpose(2, 3).flatten(1, 2)


@tells_shapes
class HierarchicalAttention(nn.Module):
    """Tokens attend within their block, the means of blocks to each other, and each token gets what its block found.

    Chalkidis et al., 2022, "An Exploration of Hierarchical Attention Transformers", arXiv:2210.05529, with the mean of
    a block in place of its first token.
    """

    def __init__(self, dim: int, heads: int, block: int) -> None:
        """Make both levels.

        Args:
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of each attention.
            block: Tokens in a block.

        Raises:
            ValueError: If the block is empty, or the width does not split into the heads.
        """
        super().__init__()
        self.norm, self.across_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.within = BlockAttention(dim, heads, block)
        self.across = Attention(dim, heads)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Attend on both levels.

        Args:
            tokens: FP32 [N, L, dim]; L is a multiple of ``block``.
            mask: What of them is real, [N, L], BOOL or numbers that are 0 at padding.

        Returns:
            FP32 [N, L, dim]; what stands at padding means nothing.

        Raises:
            ValueError: If the width is another one, or the last block is not whole.
        """
        changed = cut(tokens + self.within(self.norm(tokens), mask), self.within.block)
        real = cut(mask.bool(), self.within.block)
        count = real.sum(dim=2)
        mean = torch.where(real[..., None], changed, 0.0).sum(dim=2) / count.clamp(min=1)[..., None]
        answer: Tensor = self.across(self.across_norm(mean), mask=count)
        return (changed + answer[:, :, None]).flatten(1, 2)


def cut(given: Tensor, block: int) -> Tensor:
    """Turn [N, L, …] into [N, blocks, block, …]."""
    return torch.unflatten(given, 1, (-1, block))
