"""Captions by greedy search, unrolled to a fixed length: one graph from features to tokens.

Vinyals et al., 2014, "Show and Tell", arXiv:1411.4555, with a decoder of Vaswani et al., 2017, arXiv:1706.03762.
Deployable: the loop runs a fixed number of times and is written out; a caption that has ended goes on with the end
token, by ``torch.where``; keys and values of earlier tokens are kept within the call, so a step computes one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmdeploy.zoo.attention.heads import Attention, DecoderLayer, attend, check_width, over_heads
from mmdeploy.zoo.outside import tells_shapes

_Seen = tuple[Tensor, Tensor]


@tells_shapes
class CaptionDecoder(nn.Module):
    """Tokens so far and what they describe, to the logits of the next one: what is trained."""

    def __init__(self, vocabulary: int, length: int, dim: int, heads: int, context_dim: int, *, depth: int) -> None:
        """Make the layers.

        Args:
            vocabulary: Tokens that there are.
            length: Most tokens of a caption.
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of each attention.
            context_dim: Width of the features.
            depth: Layers.

        Raises:
            ValueError: If one of them is not above 0.
        """
        super().__init__()
        if min(vocabulary, length, depth) < 1:
            raise ValueError(f"{vocabulary} tokens, {length} long, {depth} layers: 1 or more of each")
        self.context_dim = context_dim
        self.table = nn.Embedding(vocabulary, dim)
        self.places = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, context_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Score what follows each token.

        Args:
            tokens: INT64 [N, L]; L is at most ``length``.
            context: Features, FP32 [N, S, context_dim].
            mask: What of them is real, [N, S], BOOL or numbers that are 0 at padding.

        Returns:
            Logits FP32 [N, L, vocabulary].

        Raises:
            ValueError: If there are more tokens, or the width is another one.
        """
        if tokens.shape[1] > len(self.places):
            raise ValueError(f"{tokens.shape[1]} tokens: made for at most {len(self.places)}")
        found = self.table(tokens) + self.places[: tokens.shape[1]]
        for layer in self.layers:
            found = layer(found, context, mask)
        logits: Tensor = self.head(self.norm(found))
        return logits


@tells_shapes
class GreedyCaptions(nn.Module):
    """The most likely next token, ``length`` times."""

    def __init__(self, decoder: CaptionDecoder, start: int, end: int) -> None:
        """Take a trained decoder, and its length.

        Args:
            decoder: That scores.
            start: Token that captions begin with; it is not given back.
            end: Token that they end with.

        Raises:
            ValueError: If the decoder does not know one of them.
        """
        super().__init__()
        known = decoder.table.num_embeddings
        if not (0 <= start < known and 0 <= end < known):
            raise ValueError(f"start {start} and end {end}: tokens are 0 to {known - 1}")
        self.decoder, self.start, self.end = decoder, start, end

    def forward(self, context: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Describe.

        Args:
            context: Features, FP32 [N, S, context_dim]; any number.
            mask: What of them is real, [N, S], BOOL or numbers that are 0 at padding.

        Returns:
            Tokens INT64 [N, length], the end token from where a caption ends; and the logarithm of the probability of
            each, FP32 [N, length], 0 behind the first end token.

        Raises:
            ValueError: If the width is another one.
        """
        decoder, real = self.decoder, over_heads(mask)
        check_width("context", context, decoder.context_dim)
        layers = cast(Sequence[DecoderLayer], decoder.layers)
        asked = [cast(Attention, layer.asking).keys_and_values(context) for layer in layers]
        seen: list[_Seen | None] = [None] * len(asked)
        token = torch.full_like(context[:, 0, 0], self.start, dtype=torch.long)
        ended = torch.zeros_like(token, dtype=torch.bool)
        tokens, scores = [], []
        for place in decoder.places:
            found = (decoder.table(token) + place)[:, None]
            for index, layer in enumerate(layers):
                found, seen[index] = _step(layer, found, seen[index], asked[index], real)
            score, best = decoder.head(decoder.norm(found))[:, 0].log_softmax(dim=-1).max(dim=-1)
            token = torch.where(ended, self.end, best)
            tokens.append(token)
            scores.append(torch.where(ended, 0.0, score))
            ended = ended | (token == self.end)
        return torch.stack(tokens, dim=1), torch.stack(scores, dim=1)


def _step(
    layer: DecoderLayer, token: Tensor, seen: _Seen | None, asked: _Seen, real: Tensor | None
) -> tuple[Tensor, _Seen]:
    """Take one token [N, 1, dim] through a layer of which the keys and values so far are known."""
    normed = layer.norm(token)
    key, value = layer.attention.keys_and_values(normed)
    if seen is not None:
        key, value = torch.cat([seen[0], key], dim=2), torch.cat([seen[1], value], dim=2)
    token = token + _answer(layer.attention, normed, (key, value), None)
    token = token + _answer(cast(Attention, layer.asking), layer.asking_norm(token), asked, real)
    return token + layer.mlp(token), (key, value)


def _answer(attention: Attention, token: Tensor, seen: _Seen, real: Tensor | None) -> Tensor:
    return attention.join(attend(attention.split(attention.query(token)), *seen, real))
