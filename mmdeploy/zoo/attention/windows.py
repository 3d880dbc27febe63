"""Attention of each token to its neighbours: a sliding window, cut out of the keys and values by unfolding.

Beltagy et al., 2020, "Longformer", arXiv:2004.05150. Work grows with the length, not its square. Deployable: the keys
next to each token are ``window`` slices of the padded sequence side by side, so there is no loop over tokens, no index,
and the length stays free.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmdeploy.zoo.attention.heads import Attention, attend_each, check_width
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class WindowAttention(Attention):
    """Tokens that see ``window`` of them: as many before as behind, and themselves."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        """Make the projections.

        Args:
            dim: Width of the tokens.
            heads: How many parts the width is split into.
            window: Tokens that one sees, an odd number.

        Raises:
            ValueError: If the window is not odd, or the width does not split into the heads.
        """
        super().__init__(dim, heads)
        if window < 1 or window % 2 == 0:
            raise ValueError(f"a window of {window}: an odd number, as many before a token as behind it and the token")
        self.window = window

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Attend.

        Args:
            tokens: FP32 [N, L, dim]; any length.
            mask: What of them is real, [N, L], BOOL or numbers that are 0 at padding.

        Returns:
            FP32 [N, L, dim]; what stands at padding means nothing.

        Raises:
            ValueError: If the width is another one.
        """
        check_width("tokens", tokens, self.query.in_features)
        key, value = self._near(self.key(tokens)), self._near(self.value(tokens))
        real = self._near(mask.bool().to(tokens.dtype)[..., None]).flatten(2) > 0
        found: Tensor = self.out(attend_each(self.query(tokens), key, value, real, self.heads))
        return found

    def _near(self, given: Tensor) -> Tensor:
        """Turn [N, L, width] into the window of each token [N, L, window, width], zeros beyond the ends."""
        length, reach = given.shape[1], self.window // 2
        padded = functional.pad(given, (0, 0, reach, reach))
        return torch.stack([padded[:, offset : offset + length] for offset in range(self.window)], dim=2)
