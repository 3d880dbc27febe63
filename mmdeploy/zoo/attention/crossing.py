"""Cross-attention between two and three modalities, each asking all others.

Deployable: each direction is one attention with four axes; modalities have lengths and padding masks of their own, and
a modality that is nothing but padding adds only the bias of its projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from torch import Tensor, nn

from mmdeploy.zoo.attention.heads import Attention
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class TwoWayAttention(nn.Module):
    """Two modalities that ask each other, each added to what it was.

    Lu et al., 2019, "ViLBERT", arXiv:1908.02265; Tan and Bansal, 2019, "LXMERT", arXiv:1908.07490.
    """

    def __init__(self, dims: tuple[int, int], heads: int) -> None:
        """Make both directions.

        Args:
            dims: Width of each modality, a multiple of ``heads``.
            heads: Of each direction.
        """
        super().__init__()
        first, second = dims
        self.first_norm, self.second_norm = nn.LayerNorm(first), nn.LayerNorm(second)
        self.first_asks = Attention(first, heads, second)
        self.second_asks = Attention(second, heads, first)

    def forward(self, first: Tensor, second: Tensor, first_mask: Tensor, second_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Let both ask.

        Args:
            first: FP32 [N, L, width of the first].
            second: FP32 [N, S, width of the second].
            first_mask: What of the first is real, [N, L], BOOL or numbers that are 0 at padding.
            second_mask: As much for the second, [N, S].

        Returns:
            Both, changed; what stands at padding means nothing.

        Raises:
            ValueError: If a width is another one.
        """
        one, other = self.first_norm(first), self.second_norm(second)
        return (
            first + self.first_asks(one, other, second_mask),
            second + self.second_asks(other, one, first_mask),
        )


@tells_shapes
class ThreeWayAttention(nn.Module):
    """Three modalities of which each asks the two others, by an attention for each of the six directions.

    Tsai et al., 2019, "Multimodal Transformer for Unaligned Multimodal Language Sequences", arXiv:1906.00295, there
    with layers in each direction and the answers side by side; here they are added.
    """

    def __init__(self, dims: tuple[int, int, int], heads: int) -> None:
        """Make the six directions.

        Args:
            dims: Width of each modality, a multiple of ``heads``.
            heads: Of each direction.
        """
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.asks = nn.ModuleDict(
            {
                f"{asking}_{asked}": Attention(dims[asking], heads, dims[asked])
                for asking, asked in permutations(range(3), 2)
            }
        )

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        third: Tensor,
        *,
        first_mask: Tensor,
        second_mask: Tensor,
        third_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let all three ask.

        Args:
            first: FP32 [N, L, width of the first].
            second: FP32 [N, S, width of the second].
            third: FP32 [N, T, width of the third].
            first_mask: What of the first is real, [N, L], BOOL or numbers that are 0 at padding.
            second_mask: As much for the second, [N, S].
            third_mask: As much for the third, [N, T].

        Returns:
            All three, changed; what stands at padding means nothing.

        Raises:
            ValueError: If a width is another one.
        """
        tokens, masks = (first, second, third), (first_mask, second_mask, third_mask)
        normed = [norm(given) for norm, given in zip(self.norms, tokens, strict=True)]
        changed = [self._asked(number, normed, masks) + given for number, given in enumerate(tokens)]
        return changed[0], changed[1], changed[2]

    def _asked(self, asking: int, normed: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        one, other = (
            self.asks[f"{asking}_{asked}"](normed[asking], normed[asked], masks[asked])
            for asked in range(3)
            if asked != asking
        )
        found: Tensor = one + other
        return found
