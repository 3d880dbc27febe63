"""A frozen decoder of text that learns to see: gated cross-attention before each of its layers.

Alayrac et al., 2022, "Flamingo", arXiv:2204.14198. Gates are tanh of a number that starts at 0, so at first the decoder
answers exactly as it did. Deployable: gates are constants of the graph; a text without an image is one whose context is
all padding.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmdeploy.zoo.attention.heads import Attention, check_width, mlp
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class GatedCrossAttention(nn.Module):
    """Attention to a context and an MLP, each added as far as its gate is open."""

    def __init__(self, dim: int, heads: int, context_dim: int, expansion: int = 4) -> None:
        """Make it, shut.

        Args:
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of the attention.
            context_dim: Width of the context.
            expansion: How much wider the MLP is.
        """
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, context_dim)
        self.mlp = mlp(dim, expansion)
        self.gate = nn.Parameter(torch.zeros(()))
        self.mlp_gate = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Ask.

        Args:
            tokens: FP32 [N, L, dim].
            context: FP32 [N, S, context_dim].
            mask: What of the context is real, [N, S] or as `Attention` takes it.

        Returns:
            FP32 [N, L, dim]. A text without any context gets the attention's bias, gated.

        Raises:
            ValueError: If a width is another one.
        """
        tokens = tokens + self.gate.tanh() * self.attention(self.norm(tokens), context, mask)
        found: Tensor = tokens + self.mlp_gate.tanh() * self.mlp(tokens)
        return found


@tells_shapes
class GatedDecoder(nn.Module):
    """Layers of a decoder that are not trained, with a gated cross-attention before each."""

    def __init__(self, layers: Iterable[nn.Module], dim: int, heads: int, context_dim: int, expansion: int = 4) -> None:
        """Freeze the layers and put the gates before them.

        Args:
            layers: Each takes and gives tokens FP32 [N, L, dim]; they get no gradient from now on, and stay in eval
                mode.
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of the cross-attention.
            context_dim: Width of the context.
            expansion: How much wider the gated MLPs are.

        Raises:
            ValueError: If there are no layers.
        """
        super().__init__()
        self.width = dim
        self.frozen = nn.ModuleList(layers).requires_grad_(False).eval()
        if not self.frozen:
            raise ValueError("a decoder of 0 layers: 1 or more")
        self.gated = nn.ModuleList(GatedCrossAttention(dim, heads, context_dim, expansion) for _ in self.frozen)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Decode.

        Args:
            tokens: Embedded text, FP32 [N, L, dim]; padding stands at its end, where no other token sees it.
            context: What is seen, FP32 [N, S, context_dim].
            mask: What of it is real, [N, S], BOOL or numbers that are 0 at padding.

        Returns:
            FP32 [N, L, dim].

        Raises:
            ValueError: If a width is another one.
        """
        check_width("tokens", tokens, self.width)
        for gated, layer in zip(self.gated, self.frozen, strict=True):
            tokens = layer(gated(tokens, context, mask))
        return tokens

    def train(self, mode: bool = True) -> GatedDecoder:
        """Set the mode of all but the frozen layers."""
        super().train(mode)
        self.frozen.eval()
        return self
