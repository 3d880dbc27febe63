"""Attention with several heads, and the layer of a decoder: what the other blocks are made of.

Vaswani et al., 2017, "Attention Is All You Need", arXiv:1706.03762. Written with a linear layer each for query, key and
value, so that heads can be pruned and every product with weights quantized; the rest is one call of PyTorch's
``scaled_dot_product_attention`` with four axes, which engines fuse.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class Attention(nn.Module):
    """Tokens that attend to a context, or to each other."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        """Make the projections.

        Args:
            dim: Width of the tokens.
            heads: How many parts the width is split into.
            context_dim: Width of the context; that of the tokens by default.

        Raises:
            ValueError: If the width does not split into the heads.
        """
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads of a width of {dim}: the width is a multiple of the heads")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(context_dim or dim, dim)
        self.value = nn.Linear(context_dim or dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            tokens: What asks, FP32 [N, L, dim].
            context: What is asked, FP32 [N, S, context_dim]; the tokens by default.
            mask: What of the context is real: [N, S], BOOL or numbers that are 0 at padding; or BOOL [N or 1, heads or
                1, L or 1, S]. A token with nothing to attend to gets 0 for its heads.

        Returns:
            FP32 [N, L, dim].

        Raises:
            ValueError: If a width is another one.
        """
        context = tokens if context is None else context
        check_width("tokens", tokens, self.query.in_features)
        check_width("context", context, self.key.in_features)
        mixed = attend(self.split(self.query(tokens)), *self.keys_and_values(context), over_heads(mask))
        return self.join(mixed)

    def keys_and_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is asked, two of [N, heads, S, width of a head]."""
        return self.split(self.key(context)), self.split(self.value(context))

    def split(self, wide: Tensor) -> Tensor:
        """Turn [N, L, dim] into [N, heads, L, width of a head]."""
        return torch.unflatten(wide, -1, (self.heads, -1)).transpose(1, 2)

    def join(self, mixed: Tensor) -> Tensor:
        """Turn what heads found [N, heads, L, width of a head] into tokens [N, L, dim]."""
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return found


@tells_shapes
class DecoderLayer(nn.Module):
    """Causal attention, attention to a context where there is one, and an MLP; each behind its normalization.

    As ``nn.TransformerDecoderLayer`` (without a context ``nn.TransformerEncoderLayer``) with ``norm_first``, GELU and
    no dropout.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, expansion: int = 4) -> None:
        """Make a layer.

        Args:
            dim: Width of the tokens.
            heads: Of either attention.
            context_dim: Width of the context; no attention to one by default.
            expansion: How much wider the MLP is.
        """
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.asking: Attention | None = None
        if context_dim is not None:
            self.asking_norm, self.asking = nn.LayerNorm(dim), Attention(dim, heads, context_dim)
        self.mlp = mlp(dim, expansion)

    def forward(self, tokens: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Change tokens FP32 [N, L, dim], which see those before them and a context [N, S, context_dim].

        Args:
            tokens: FP32 [N, L, dim].
            context: FP32 [N, S, context_dim].
            mask: What of the context is real, as `Attention` takes it.

        Raises:
            ValueError: If there is a context and no attention to it, or the other way round.
        """
        if (self.asking is None) != (context is None):
            raise ValueError("a context is given exactly to a layer that is made with context_dim")
        tokens = tokens + self.attention(normed := self.norm(tokens), normed, causal(tokens))
        if self.asking is not None:
            tokens = tokens + self.asking(self.asking_norm(tokens), context, mask)
        found: Tensor = tokens + self.mlp(tokens)
        return found


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the values that queries find, all [N, heads, …, width of a head]."""
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attend_each(query: Tensor, key: Tensor, value: Tensor, real: Tensor, heads: int) -> Tensor:
    """Let each token ask keys and values of its own, by heads: one attention with four axes, a head a token and head.

    Args:
        query: FP32 [N, L, dim].
        key: FP32 [N, L, S, dim].
        value: FP32 [N, L, S, dim].
        real: Which of them there are, BOOL [N, L, S].
        heads: Parts of the width.

    Returns:
        FP32 [N, L, dim].
    """
    asks = torch.unflatten(query, -1, (heads, -1)).flatten(1, 2)[:, :, None]
    keys, values = (torch.unflatten(part, -1, (heads, -1)).transpose(2, 3).flatten(1, 2) for part in (key, value))
    mask = real[:, :, None].expand(-1, -1, heads, -1).flatten(1, 2)[:, :, None]
    return torch.unflatten(attend(asks, keys, values, mask)[:, :, 0], 1, (-1, heads)).flatten(2)


def over_heads(mask: Tensor | None) -> Tensor | None:
    """Turn what is real of a context [N, S] into a BOOL mask of attention [N, 1, 1, S]; let one of four axes pass."""
    return mask.bool()[:, None, None] if mask is not None and mask.dim() == 2 else mask


def causal(tokens: Tensor) -> Tensor:
    """Return which tokens of [N, L, dim] each one sees, itself and those before: BOOL [1, 1, L, L]."""
    place = torch.arange(tokens.shape[1], device=tokens.device)
    return (place[:, None] >= place)[None, None]


def mlp(dim: int, expansion: int = 4) -> nn.Sequential:
    """Return a normalization and two linear layers with GELU between."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))


def check_width(name: str, tokens: Tensor, width: int) -> None:
    """Hold tokens against what a block is made for.

    Raises:
        ValueError: If they are not [N, L, width].
    """
    if tokens.dim() != 3 or tokens.shape[-1] != width:
        raise ValueError(f"{name} of {list(tokens.shape)}: made for [N, L, {width}]")
