"""Keys and values of earlier tokens as an input and an output: a decoder's step that computes none of them anew.

Pope et al., 2022, "Efficiently Scaling Transformer Inference", arXiv:2211.05102. Deployable: nothing is kept in the
module, which would be lost in an engine and mixed up between requests; who calls holds the state (Triton's sequence
batcher does). Keys and values are [N, tokens, dim], heads side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmdeploy.zoo.attention.heads import Attention, attend, check_width
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class GrowingReuse(Attention):
    """Attention whose keys and values grow by those of the tokens that come."""

    def forward(  # type: ignore[override]
        self, tokens: Tensor, past_keys: Tensor, past_values: Tensor, past_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to what was and, causally, to what comes.

        Args:
            tokens: That come, FP32 [N, L, dim].
            past_keys: FP32 [N, P, dim].
            past_values: FP32 [N, P, dim].
            past_mask: What of the past is real, [N, P], BOOL or numbers that are 0 at padding.

        Returns:
            What tokens become, FP32 [N, L, dim]; all keys and all values, FP32 [N, P + L, dim].

        Raises:
            ValueError: If a width is another one.
        """
        for name, given in (("tokens", tokens), ("past_keys", past_keys), ("past_values", past_values)):
            check_width(name, given, self.query.in_features)
        keys = torch.cat([past_keys, self.key(tokens)], dim=1)
        values = torch.cat([past_values, self.value(tokens)], dim=1)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        before = (place[:, None] >= place)[None].expand(tokens.shape[0], -1, -1)
        real = torch.cat([past_mask.bool()[:, None].expand(-1, tokens.shape[1], -1), before], dim=2)
        mixed = attend(self.split(self.query(tokens)), self.split(keys), self.split(values), real[:, None])
        return self.join(mixed), keys, values


@tells_shapes
class FixedReuse(Attention):
    """The same for one token at a time, in room for ``length``: every shape is fixed, as state of a sequence is."""

    def __init__(self, dim: int, heads: int, length: int) -> None:
        """Make the projections.

        Args:
            dim: Width of the tokens, a multiple of ``heads``.
            heads: Of the attention.
            length: Most tokens.

        Raises:
            ValueError: If there is no room.
        """
        super().__init__(dim, heads)
        if length < 1:
            raise ValueError(f"room for {length} tokens: 1 or more")
        self.length = length

    def forward(  # type: ignore[override]
        self, token: Tensor, past_keys: Tensor, past_values: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to what was and to the token that comes.

        Args:
            token: That comes, FP32 [N, dim].
            past_keys: FP32 [N, length, dim]; what stands at and behind the position means nothing.
            past_values: FP32 [N, length, dim].
            position: How many tokens were before, INT64 [N], below ``length``.

        Returns:
            What the token becomes, FP32 [N, dim]; keys and values with it, FP32 [N, length, dim].

        Raises:
            ValueError: If a width is another one, or there is room for another number of tokens.
        """
        check_width("token, with a second axis of 1,", token[:, None], self.query.in_features)
        for name, given in (("past_keys", past_keys), ("past_values", past_values)):
            check_width(name, given, self.query.in_features)
            if given.shape[1] != self.length:
                raise ValueError(f"{name} of {given.shape[1]} tokens: made for {self.length}")
        place = torch.arange(self.length, device=token.device)
        here = (place == position[:, None])[..., None]
        keys = torch.where(here, self.key(token)[:, None], past_keys)
        values = torch.where(here, self.value(token)[:, None], past_values)
        real = (place <= position[:, None])[:, None, None]
        mixed = attend(self.split(self.query(token)[:, None]), self.split(keys), self.split(values), real)
        return self.join(mixed)[:, 0], keys, values
