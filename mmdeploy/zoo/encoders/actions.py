"""Heads on the features of a video's frames: which action is where, and how well it was done."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.shapes import require, zero_padding
from mmdeploy.zoo.encoders.transformer import TransformerLayer
from mmdeploy.zoo.outside import tells_shapes

#: In place of a score that is not to count: FP16 holds it, and its exponential is 0.
_NEVER = -1e4


class MaskedConvolution(nn.Module):
    """A convolution over three frames, a normalization and ReLU, which sees padding as zeros."""

    def __init__(self, width: int, to: int) -> None:
        """Make it from ``width`` values a frame to ``to``."""
        super().__init__()
        self.convolution = nn.Conv1d(width, to, 3, padding=1)
        self.norm = nn.LayerNorm(to)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Turn frames [N, T, width] and their mask [N, T] into [N, T, to]."""
        found: Tensor = self.convolution(zero_padding(frames, mask).transpose(1, 2)).transpose(1, 2)
        return nn.functional.relu(self.norm(found))


@tells_shapes
class ActionLocalizer(nn.Module):
    """Features of frames, of any length, to the classes of each frame and its distances to where the action is.

    As ActionFormer (Zhang, Wu and Li, 2022, arXiv:2202.07925), with one level in place of its pyramid. Deployable:
    attention within a window is a mask made of the length, on four axes; there are no positions to run out of, so any
    length is one graph; padding changes nothing, wherever it is. What is kept of overlapping answers is for a python
    step: its number is open.
    """

    def __init__(
        self, classes: int, features: int, *, width: int = 256, depth: int = 4, heads: int = 8, window: int = 19
    ) -> None:
        """Make the network.

        Args:
            classes: Kinds of actions.
            features: Values of a frame that comes.
            width: Values of a frame within.
            depth: Layers.
            heads: Of each attention.
            window: Frames that a frame attends to, itself in the middle; an odd number.

        Raises:
            ValueError: If the window is even, or ``width`` no multiple of ``heads``.
        """
        super().__init__()
        if window % 2 == 0:
            raise ValueError(f"window {window}: an odd number, so that as many frames are on both sides")
        self.features, self.reach = features, window // 2
        self.embedding = nn.ModuleList((MaskedConvolution(features, width), MaskedConvolution(width, width)))
        self.layers = nn.ModuleList(TransformerLayer(width, heads) for _ in range(depth))
        self.classes = nn.ModuleList((MaskedConvolution(width, width), nn.Linear(width, classes)))
        self.bounds = nn.ModuleList((MaskedConvolution(width, width), nn.Linear(width, 2)))

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Locate actions.

        Args:
            features: FP32 [N, T, features].
            mask: INT64 [N, T], 1 where a frame is real.

        Returns:
            Scores from 0 to 1 of the classes FP32 [N, T, classes], and distances to the first and the last frame of the
            action [N, T, 2] in frames, 0 or more. Both are 0 in padding.

        Raises:
            ValueError: If there are more or fewer features.
        """
        require(features, "features", "N", "T", self.features)
        require(mask, "mask", "N", "T", integer=True)
        found = features
        for convolution in self.embedding:
            found = convolution(found, mask)
        places = torch.arange(features.shape[1], device=features.device)
        near = (places[:, None] - places).abs() <= self.reach
        seen = near & (mask != 0)[:, None, None]
        for layer in self.layers:
            found = layer(found, seen)
        answers = (head(convolution(found, mask)) for convolution, head in (self.classes, self.bounds))
        scores, distances = answers
        return zero_padding(scores.sigmoid(), mask), zero_padding(distances.relu(), mask)


@tells_shapes
class ActionQuality(nn.Module):
    """Features of a video's frames, of any length, to a score and to a rank that compares it with other videos.

    The score is the mean of a distribution over levels (Tang et al., 2020, arXiv:2006.07665), which is trained against
    one around the judges' score (`levels`); the rank is trained by pairs (Doughty, Damen and Mayol-Cuevas, 2018,
    arXiv:1703.09913): the sigmoid of a difference is the probability that the first is better. Deployable: frames are
    weighed by a softmax with a mask, levels are a buffer; any batch and length in one graph, and padding changes
    nothing.
    """

    steps: Tensor

    def __init__(
        self, features: int, *, hidden: int = 256, lowest: float = 0.0, highest: float = 100.0, levels: int = 101
    ) -> None:
        """Make the heads.

        Args:
            features: Values of a frame that comes.
            hidden: Values within.
            lowest: Least score.
            highest: Greatest.
            levels: How many scores the distribution tells apart, at least 2.

        Raises:
            ValueError: If there are fewer, or ``highest`` is not above ``lowest``.
        """
        super().__init__()
        if levels < 2 or highest <= lowest:
            raise ValueError(f"{levels} levels from {lowest} to {highest}: at least 2, the greatest above the least")
        self.features = features
        self.inner = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.weight = nn.Linear(hidden, 1)
        self.distribution, self.rank = nn.Linear(hidden, levels), nn.Linear(hidden, 1)
        self.register_buffer("steps", torch.linspace(lowest, highest, levels)[:, None], persistent=False)

    def pooled(self, features: Tensor, mask: Tensor) -> Tensor:
        """Weigh features FP32 [N, T, features] by their mask INT64 [N, T] and what they say, to [N, hidden].

        Raises:
            ValueError: If there are more or fewer features.
        """
        require(features, "features", "N", "T", self.features)
        require(mask, "mask", "N", "T", integer=True)
        frames = self.inner(features)
        real = (mask != 0)[:, :, None]
        weights = self.weight(frames).masked_fill(~real, _NEVER).softmax(dim=1)
        found: Tensor = (zero_padding(weights, mask).transpose(1, 2) @ frames)[:, 0]
        return found

    def levels(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of the levels [N, levels], which training wants; the arguments are those of `forward`."""
        found: Tensor = self.distribution(self.pooled(features, mask))
        return found

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Judge videos.

        Args:
            features: FP32 [N, T, features].
            mask: INT64 [N, T], 1 where a frame is real.

        Returns:
            Scores FP32 [N, 1] within ``lowest`` and ``highest``, and ranks [N, 1]: the greater, the better.

        Raises:
            ValueError: If there are more or fewer features.
        """
        pooled = self.pooled(features, mask)
        return self.distribution(pooled).softmax(dim=-1) @ self.steps, self.rank(pooled)
