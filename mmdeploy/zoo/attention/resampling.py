"""A context of any length to a fixed number of tokens: learned queries that ask it, layer by layer.

Deployable: the number of queries is part of the weights, so whatever comes in, the next step of an ensemble gets one
shape; padding of the context is masked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.attention.heads import Attention, check_width, mlp, over_heads
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class PerceiverResampler(nn.Module):
    """Learned tokens that ask the context and themselves at once.

    Alayrac et al., 2022, "Flamingo", arXiv:2204.14198; after Jaegle et al., 2021, "Perceiver", arXiv:2103.03206.
    """

    def __init__(self, dim: int, heads: int, context_dim: int, tokens: int, depth: int) -> None:
        """Make the layers.

        Args:
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of each attention.
            context_dim: Width of the context.
            tokens: That are learned and given.
            depth: Layers.

        Raises:
            ValueError: If there are no tokens or no layers.
        """
        super().__init__()
        _check(tokens, depth)
        self.entry = nn.Linear(context_dim, dim)
        self.tokens = nn.Parameter(torch.randn(tokens, dim) / dim**0.5)
        self.layers = nn.ModuleList(_Resampling(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, context: Tensor, mask: Tensor) -> Tensor:
        """Ask.

        Args:
            context: FP32 [N, S, context_dim], of any length.
            mask: What of it is real, [N, S], BOOL or numbers that are 0 at padding.

        Returns:
            FP32 [N, tokens, dim].

        Raises:
            ValueError: If the width is another one.
        """
        check_width("context", context, self.entry.in_features)
        given = self.entry(context)
        found = self.tokens.expand(context.shape[0], -1, -1)
        own = torch.ones_like(found[..., 0], dtype=torch.bool)
        real = over_heads(torch.cat([mask.bool(), own], dim=1))
        for layer in self.layers:
            found = layer(found, given, real)
        answer: Tensor = self.norm(found)
        return answer


class _Resampling(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.context_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = mlp(dim)

    def forward(self, tokens: Tensor, context: Tensor, real: Tensor) -> Tensor:
        normed = self.norm(tokens)
        asked = torch.cat([self.context_norm(context), normed], dim=1)
        tokens = tokens + self.attention(normed, asked, real)
        changed: Tensor = tokens + self.mlp(tokens)
        return changed


@tells_shapes
class QFormer(nn.Module):
    """Learned queries that attend to each other, and in every other layer ask an image.

    Li et al., 2023, "BLIP-2", arXiv:2301.12597: a BERT (normalization after each part); without the text
    that its queries may attend to as well.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        context_dim: int,
        queries: int,
        depth: int,
        *,
        asks_every: int = 2,
        expansion: int = 4,
    ) -> None:
        """Make the layers.

        Args:
            dim: Width of the queries, a multiple of ``heads``.
            heads: Of each attention.
            context_dim: Width of the image's tokens.
            queries: That are learned and given.
            depth: Layers.
            asks_every: Of so many layers the first asks the image.
            expansion: How much wider MLPs are.

        Raises:
            ValueError: If there are no queries or no layers.
        """
        super().__init__()
        _check(queries, depth)
        self.queries = nn.Parameter(torch.randn(queries, dim) * 0.02)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(
            _QFormerLayer(dim, heads, context_dim if number % asks_every == 0 else None, expansion)
            for number in range(depth)
        )

    def forward(self, context: Tensor, mask: Tensor) -> Tensor:
        """Ask an image.

        Args:
            context: Its tokens, FP32 [N, S, context_dim], of any number.
            mask: What of them is real, [N, S], BOOL or numbers that are 0 at padding.

        Returns:
            FP32 [N, queries, dim].

        Raises:
            ValueError: If the width is another one.
        """
        found: Tensor = self.norm(self.queries.expand(context.shape[0], -1, -1))
        for layer in self.layers:
            found = layer(found, context, mask)
        return found


class _QFormerLayer(nn.Module):
    def __init__(self, dim: int, heads: int, context_dim: int | None, expansion: int) -> None:
        super().__init__()
        self.attention, self.norm = Attention(dim, heads), nn.LayerNorm(dim, eps=1e-12)
        self.asking: Attention | None = None
        if context_dim is not None:
            self.asking, self.asking_norm = Attention(dim, heads, context_dim), nn.LayerNorm(dim, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        queries = self.norm(queries + self.attention(queries))
        if self.asking is not None:
            queries = self.asking_norm(queries + self.asking(queries, context, mask))
        found: Tensor = self.mlp_norm(queries + self.mlp(queries))
        return found


def _check(tokens: int, depth: int) -> None:
    if tokens < 1 or depth < 1:
        raise ValueError(f"{tokens} learned tokens and {depth} layers: 1 or more of both")
