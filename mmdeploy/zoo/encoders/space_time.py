"""Transformers on video: attention over time and over space in turn, and clips of a long video."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.shapes import at_most, attention_mask, class_token, divisible, mean_of_real, require
from mmdeploy.zoo.encoders.transformer import SelfAttention, Transformer, mlp
from mmdeploy.zoo.outside import tells_shapes


class SpaceTimeLayer(nn.Module):
    """Attention of each patch over time, then of each frame over space, then an MLP, each behind a normalization."""

    def __init__(self, width: int, heads: int) -> None:
        """Make the layer.

        Raises:
            ValueError: If ``width`` is no multiple of ``heads``.
        """
        super().__init__()
        self.before_time, self.before_space, self.before_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.time, self.space = SelfAttention(width, heads), SelfAttention(width, heads)
        self.after_time = nn.Linear(width, width)
        self.mlp = mlp(width, 4 * width)

    def forward(self, token: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the class token [N, 1, width] and patches [N, frames, places, width] into the same, attended to."""
        count, frames, places, width = patches.shape
        through_time = self.before_time(patches).transpose(1, 2).reshape(count * places, frames, width)
        moved = self.after_time(self.time(through_time))
        patches = patches + moved.reshape(count, places, frames, width).transpose(1, 2)

        tokens = torch.cat([token[:, None].expand(-1, frames, -1, -1), patches], dim=2)
        in_frame = self.before_space(tokens).reshape(count * frames, 1 + places, width)
        seen = self.space(in_frame).reshape(count, frames, 1 + places, width)
        token = token + seen[:, :, :1].mean(dim=1)
        patches = patches + seen[:, :, 1:]
        return token + self.mlp(self.before_mlp(token)), patches + self.mlp(self.before_mlp(patches))


@tells_shapes
class SpaceTimeTransformer(nn.Module):
    """Clips of one size to an embedding by divided space-time attention.

    TimeSformer (Bertasius, Wang and Torresani, 2021, arXiv:2102.05095). Deployable: places and frames are folded into
    the batch by turns, so that each attention has four axes; the class token is kept apart from the patches instead of
    being cut out and pasted in; any batch.
    """

    def __init__(
        self,
        size: tuple[int, int] = (224, 224),
        frames: int = 8,
        patch: int = 16,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        channels: int = 3,
    ) -> None:
        """Make the encoder; the defaults are those of the paper.

        Args:
            size: Height and width of the frames [pixels].
            frames: Of a clip.
            patch: Height and width of a patch [pixels]; ``size`` is a multiple.
            width: Values of a token.
            depth: Layers.
            heads: Of each attention.
            channels: Of the frames.

        Raises:
            ValueError: If ``size`` is no multiple of ``patch``, or ``width`` none of ``heads``.
        """
        super().__init__()
        self.taken = (frames, channels, *size)
        rows, columns = (divisible(pixels, patch, "pixels", "patch") for pixels in size)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = class_token(width)
        self.token_position = class_token(width)
        self.places = class_token(width, rows * columns)
        self.times = class_token(width, frames)
        self.layers = nn.ModuleList(SpaceTimeLayer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, video: Tensor) -> Tensor:
        """Turn clips FP32 [N, frames, channels, height, width] into the class token's embedding [N, width].

        Raises:
            ValueError: If they are of another size, in eager mode or while tracing.
        """
        require(video, "video", "N", *self.taken)
        patches = self.patches(video.flatten(0, 1)).flatten(2).transpose(1, 2) + self.places
        patches = patches.unflatten(0, (-1, self.taken[0])) + self.times[:, :, None]
        token = (self.token + self.token_position).expand(patches.shape[0], -1, -1)
        for layer in self.layers:
            token, patches = layer(token, patches)
        found: Tensor = self.norm(token[:, 0])
        return found


@tells_shapes
class LongVideo(nn.Module):
    """A long video to an embedding: an encoder on each clip, then a transformer over the clips.

    As HierVL (Ashutosh et al., 2023, arXiv:2301.02311). Deployable: clips are folded into the batch of one encoder, no
    loop; any number of clips up to ``longest`` in one graph, and clips of padding change nothing.
    """

    def __init__(self, clips: nn.Module, width: int, longest: int, *, depth: int = 2, heads: int = 8) -> None:
        """Make the network.

        Args:
            clips: Encoder of clips [M, frames, channels, height, width] to [M, width], as `SpaceTimeTransformer`.
            width: Values of its embeddings.
            longest: Clips of the longest video.
            depth: Layers over the clips.
            heads: Of each attention.

        Raises:
            ValueError: If ``width`` is no multiple of ``heads``.
        """
        super().__init__()
        self.clips, self.longest = clips, longest
        self.positions = class_token(width, longest)
        self.transformer = Transformer(width, depth, heads)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """Embed videos.

        Args:
            video: FP32 [N, clips, frames, channels, height, width], at most ``longest`` clips.
            mask: INT64 [N, clips], 1 where a clip is real.

        Returns:
            FP32 [N, width], the mean of the real clips after they have seen each other; 0 where none is.

        Raises:
            ValueError: If there are more clips, or frames of another size, in eager mode or while tracing.
        """
        require(video, "video", "N", "clips", "frames", "channels", "height", "width")
        require(mask, "mask", "N", "clips", integer=True)
        at_most(video.shape[1], self.longest, f"a video of {video.shape[1]} clips")
        count, number = video.shape[:2]
        seen = self.clips(video.flatten(0, 1)).reshape(count, number, -1) + self.positions[:, :number]
        return mean_of_real(self.transformer(seen, attention_mask(mask)), mask)
