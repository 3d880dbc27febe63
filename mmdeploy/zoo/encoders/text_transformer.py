"""A transformer that reads tokens of text."""

from __future__ import annotations

from torch import Tensor, nn

from mmdeploy.zoo.encoders.shapes import at_most, attention_mask, class_token, mean_of_real, require
from mmdeploy.zoo.encoders.transformer import Transformer
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class TextTransformer(nn.Module):
    """Token ids and their padding mask to an embedding, the mean of the real tokens.

    Vaswani et al., 2017, arXiv:1706.03762, normalised first; averaged as in Sentence-BERT (Reimers and Gurevych, 2019,
    arXiv:1908.10084). Deployable: any batch and any length up to ``longest`` in one graph, since positions are a slice
    of a parameter; padding changes nothing, and a text of nothing but padding has the embedding 0.
    """

    def __init__(self, vocabulary: int, longest: int, *, width: int = 384, depth: int = 6, heads: int = 12) -> None:
        """Make the encoder.

        Args:
            vocabulary: How many tokens there are.
            longest: Tokens of the longest text.
            width: Values of a token.
            depth: Layers.
            heads: Of each attention.

        Raises:
            ValueError: If ``width`` is no multiple of ``heads``.
        """
        super().__init__()
        self.longest = longest
        self.words = nn.Embedding(vocabulary, width)
        self.positions = class_token(width, longest)
        self.transformer = Transformer(width, depth, heads)

    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Turn ids and mask, both INT64 [N, T], into tokens FP32 [N, T, width].

        Raises:
            ValueError: If a text is longer than ``longest``, or one of both is of another rank or type.
        """
        require(ids, "ids", "N", "T", integer=True)
        require(mask, "mask", "N", "T", integer=True)
        at_most(ids.shape[1], self.longest, f"a text of {ids.shape[1]} tokens")
        found: Tensor = self.transformer(self.words(ids) + self.positions[:, : ids.shape[1]], attention_mask(mask))
        return found

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed texts.

        Args:
            ids: Tokens, INT64 [N, T], each below ``vocabulary``; T is at most ``longest``.
            mask: INT64 [N, T], 1 where a token is real.

        Returns:
            FP32 [N, width].

        Raises:
            ValueError: If a text is longer than ``longest``, or one of both is of another rank or type.
        """
        return mean_of_real(self.tokens(ids, mask), mask)
