"""The transformer that the encoders share: normalised first, its projections plain linear layers.

Not `torch.nn.TransformerEncoder`: that ties its heads to its width, so none could be pruned, and packs its projections
where no quantizer sees them. It gives the same numbers, which the tests hold it to.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.zoo.encoders.shapes import divisible
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, arXiv:1706.03762), deployable.

    `scaled_dot_product_attention` on four axes, which the exporter takes (it refuses three), with a mask in place of
    branches. Heads are counted in an attribute, so structured pruning takes whole ones out.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Make the projections.

        Args:
            width: Values of a token.
            heads: How many; ``width`` is a multiple.

        Raises:
            ValueError: If it is not.
        """
        super().__init__()
        self.heads, self.head_dim = heads, divisible(width, heads, "width", "heads")
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend among tokens.

        Args:
            tokens: FP32 [N, T, width].
            mask: BOOL, to be broadcast to [N, heads, T, T]; true where a query (row) may attend to a key (column).

        Returns:
            FP32 [N, T, width]; a query that may attend to nothing gets the output's bias.
        """
        query, key, value = (
            part.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, -1)
        )
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        joined: Tensor = self.output(found.transpose(1, 2).flatten(2))
        return joined


@tells_shapes
class TransformerLayer(nn.Module):
    """Attention and an MLP, each behind a normalization (Xiong et al., 2020, arXiv:2002.04745)."""

    def __init__(self, width: int, heads: int, hidden: int | None = None) -> None:
        """Make the layer; ``hidden`` is the MLP's width, four times ``width`` by default."""
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp = mlp(width, hidden or 4 * width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Answer [N, T, width]; the arguments are those of `SelfAttention.forward`."""
        tokens = tokens + self.attention(self.before_attention(tokens), mask)
        found: Tensor = tokens + self.mlp(self.before_mlp(tokens))
        return found


@tells_shapes
class Transformer(nn.Module):
    """Several layers, and a normalization behind them."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int | None = None) -> None:
        """Make ``depth`` layers; the other arguments are those of `TransformerLayer`."""
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Answer [N, T, width]; the arguments are those of `SelfAttention.forward`."""
        for layer in self.layers:
            tokens = layer(tokens, mask)
        found: Tensor = self.norm(tokens)
        return found


def mlp(width: int, hidden: int) -> nn.Sequential:
    """Make two linear layers with GELU between them."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
