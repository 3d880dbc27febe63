"""Token merging: attention, after which the pairs of tokens that are most alike become one.

Bolya et al., 2022, "Token Merging: Your ViT But Faster", arXiv:2210.09461. Deployable: how many tokens go is fixed, so
shapes are; the mean of what is merged is a sum by ``scatter_add`` divided by a count, because torch.onnx writes
``scatter_reduce`` with ``mean`` as a plain overwrite (``ScatterElements`` without a reduction), which gives wrong
numbers and no error; or a product with a table of who joins whom, for engines that scatter without adding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.zoo.attention.heads import Attention, attend, check_width
from mmdeploy.zoo.outside import tells_shapes

Sum = Literal["scatter", "product"]


@tells_shapes
class TokenMerging(nn.Module):
    """Attention that minds how many tokens one stands for, then ``merged`` tokens fewer."""

    def __init__(self, dim: int, heads: int, merged: int, add: Sum = "scatter") -> None:
        """Make the attention.

        Args:
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of the attention.
            merged: Tokens that go: at most half of those that come.
            add: How: ``scatter`` (adds at places) or ``product`` (a matrix product; same numbers).

        Raises:
            ValueError: If the number of tokens that go is negative, or the way to add is unknown.
        """
        super().__init__()
        if merged < 0 or add not in ("scatter", "product"):
            raise ValueError(f"{merged} tokens merged by {add!r}: 0 or more, by 'scatter' or 'product'")
        self.merged, self.add = merged, add
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)

    def forward(self, tokens: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Attend and merge.

        Args:
            tokens: FP32 [N, L, dim], all real; L is at least ``2 * merged``.
            sizes: How many tokens each stands for, FP32 [N, L]; ones at first.

        Returns:
            Tokens FP32 [N, L - merged, dim]: first those of even places that stay, then those of odd places; and their
            sizes [N, L - merged].

        Raises:
            ValueError: If the width is another one, or there are too few tokens.
        """
        attention = self.attention
        check_width("tokens", tokens, attention.query.in_features)
        if tokens.shape[1] < 2 * self.merged:
            raise ValueError(f"{tokens.shape[1]} tokens, of which {self.merged} go: made for {2 * self.merged} or more")
        normed = self.norm(tokens)
        key, value = attention.keys_and_values(normed)
        mixed = attend(attention.split(attention.query(normed)), key, value, sizes.log()[:, None, None])
        return merge(tokens + attention.join(mixed), sizes, key.mean(dim=1), self.merged, self.add)


def merge(tokens: Tensor, sizes: Tensor, likeness: Tensor, merged: int, add: Sum) -> tuple[Tensor, Tensor]:
    """Let tokens of even places join the token of an odd place that is most like them.

    Args:
        tokens: FP32 [N, L, dim].
        sizes: How many tokens each stands for [N, L].
        likeness: By whose cosine they are compared, [N, L, any width].
        merged: Tokens that join.
        add: How sums are made.

    Returns:
        Tokens [N, L - merged, dim], the mean of all that each stands for; and their sizes [N, L - merged].
    """
    unit = functional.normalize(likeness, dim=-1)
    closeness, nearest = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=-1)
    order = closeness.topk(closeness.shape[1], dim=-1).indices
    going, staying = order[:, :merged], order[:, merged:]
    to = nearest.gather(1, going)
    weighed = torch.cat([tokens * sizes[..., None], sizes[..., None]], dim=-1)
    even, odd = weighed[:, ::2], weighed[:, 1::2]
    joined = odd + sum_at(at(even, going), to, odd, add)
    found = torch.cat([at(even, staying), joined], dim=1)
    return found[..., :-1] / found[..., -1:], found[..., -1]


def at(given: Tensor, places: Tensor) -> Tensor:
    """Return the rows of [N, L, width] at places [N, K]."""
    return given.gather(1, places[..., None].expand(-1, -1, given.shape[-1]))


def sum_at(rows: Tensor, places: Tensor, like: Tensor, add: Sum) -> Tensor:
    """Add rows [N, K, width] up at places [N, K] of zeros shaped like another tensor [N, S, width]."""
    if add == "scatter":
        return torch.zeros_like(like).scatter_add(1, places[..., None].expand_as(rows), rows)
    table = places[:, None] == torch.arange(like.shape[1], device=places.device)[:, None]
    return table.to(rows.dtype) @ rows
