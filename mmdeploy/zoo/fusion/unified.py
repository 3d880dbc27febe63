"""One transformer for text, images and frames, told apart by embeddings of place, time and modality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.transformer import Transformer
from mmdeploy.zoo.outside import tells_shapes


@dataclass(frozen=True)
class UnifiedSizes:
    """Sizes of a `UnifiedTransformer`.

    Attributes:
        vocabulary: Token ids of text.
        text: Most tokens of a text.
        grid: Rows and columns of an image's patches.
        patch: Values of a patch.
        frames: Most frames.
        frame: Values of a frame, such as mel bands.
        width: Of a token.
        depth: Layers.
        heads: Of attention; they divide ``width``.
        classes: Values that come out.
    """

    vocabulary: int
    text: int
    grid: tuple[int, int]
    patch: int
    frames: int
    frame: int
    width: int
    depth: int
    heads: int
    classes: int


@tells_shapes
class UnifiedTransformer(nn.Module):
    """One transformer over the tokens of three modalities (UniT: Hu and Singh, 2021, arXiv:2102.10772).

    Text has embeddings of its sequence, patches of row and column, frames of time, and all of their modality, as in
    VATT (Akbari et al., 2021, arXiv:2104.11178). Padding is masked by a boolean that attention takes; the class token
    in front is always there, so no row of attention is empty.
    """

    def __init__(self, sizes: UnifiedSizes) -> None:
        """Make the layers.

        Raises:
            ValueError: If a size is not above 0, or heads do not divide the width.
        """
        super().__init__()
        numbers = [*sizes.grid, *(value for value in vars(sizes).values() if isinstance(value, int))]
        if min(numbers) < 1:
            raise ValueError(f"{sizes}: every size is 1 or more")
        self.sizes = sizes
        width = sizes.width
        self.words = nn.Embedding(sizes.vocabulary, width)
        self.patches, self.frames = nn.Linear(sizes.patch, width), nn.Linear(sizes.frame, width)
        self.sequence = _places(sizes.text, width)
        self.rows, self.columns = _places(sizes.grid[0], width), _places(sizes.grid[1], width)
        self.time = _places(sizes.frames, width)
        self.modality = _places(3, width)
        self.first = _places(1, width)
        self.transformer = Transformer(width, sizes.depth, sizes.heads)
        self.head = nn.Linear(width, sizes.classes)

    def forward(
        self, ids: Tensor, text_mask: Tensor, patches: Tensor, frames: Tensor, frames_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Look at all three at once.

        Args:
            ids: Token ids, INT64 [N, L].
            text_mask: BOOL [N, L], true where a token is no padding.
            patches: Of an image, row by row, FP32 [N, rows * columns, patch].
            frames: FP32 [N, T, frame].
            frames_mask: BOOL [N, T], true where a frame is no padding.

        Returns:
            Scores, FP32 [N, classes], and the class token, normalised, FP32 [N, width].

        Raises:
            ValueError: If there are more tokens or frames than places, or other patches.
        """
        self._require(ids, patches, frames)
        places = (self.rows[:, None] + self.columns[None]).flatten(0, 1)
        text = self.words(ids) + self.sequence[: ids.shape[1]] + self.modality[0]
        seen = self.patches(patches) + places + self.modality[1]
        heard = self.frames(frames) + self.time[: frames.shape[1]] + self.modality[2]
        first = self.first[None].expand(ids.shape[0], -1, -1)
        always = torch.ones_like(patches[:, :, 0], dtype=torch.bool)
        mask = torch.cat([always[:, :1], text_mask, always, frames_mask], dim=1)
        answered = self.transformer(torch.cat([first, text, seen, heard], dim=1), mask[:, None, None])
        return self.head(answered[:, 0]), answered[:, 0]

    def _require(self, ids: Tensor, patches: Tensor, frames: Tensor) -> None:
        sizes = self.sizes
        grid = sizes.grid[0] * sizes.grid[1]
        if ids.shape[1] > sizes.text:
            raise ValueError(f"{ids.shape[1]} tokens: at most {sizes.text}")
        if frames.shape[1] > sizes.frames or frames.shape[2] != sizes.frame:
            raise ValueError(f"frames of {list(frames.shape)}: at most {sizes.frames}, of {sizes.frame} values each")
        if list(patches.shape[1:]) != [grid, sizes.patch]:
            raise ValueError(f"patches of {list(patches.shape)}: {grid} of {sizes.patch} values each")


def _places(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(count, width))
