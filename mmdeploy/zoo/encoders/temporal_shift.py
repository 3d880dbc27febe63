"""Networks of images that see motion: channels shifted in time, and a second stream of optical flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.conv_net import ConvNet, ResidualBlock, residual_blocks, stem
from mmdeploy.zoo.encoders.shapes import mean_of_real, require, zero_padding
from mmdeploy.zoo.outside import tells_shapes


def shifted(frames: Tensor, share: int = 8) -> Tensor:
    """Move some channels one frame on and as many one back (Lin, Gan and Han, 2018, arXiv:1811.08383).

    Args:
        frames: FP32 [N, T, channels, ...].
        share: One of so many channels moves each way.

    Returns:
        As ``frames``; the first ``channels // share`` come from the frame after, the next from the one before, 0 where
        there is none.
    """
    moved = frames.shape[2] // share
    none = torch.zeros_like(frames[:, :1, :moved])
    from_after = torch.cat([frames[:, 1:, :moved], none], dim=1)
    from_before = torch.cat([none, frames[:, :-1, moved : 2 * moved]], dim=1)
    return torch.cat([from_after, from_before, frames[:, :, 2 * moved :]], dim=2)


class ShiftedBlock(nn.Module):
    """A residual block whose convolutions see channels of the frames around, while its shortcut does not."""

    def __init__(self, block: ResidualBlock, share: int) -> None:
        """Shift before the convolutions of a block."""
        super().__init__()
        self.block, self.share = block, share

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Turn frames [N, T, channels, H, W] and their mask [N, T] into [N, T, width, H / stride, W / stride]."""
        count, number = frames.shape[:2]
        moved = shifted(zero_padding(frames, mask), self.share)
        found: Tensor = self.block.convolutions(moved.flatten(0, 1)) + self.block.shortcut(frames.flatten(0, 1))
        return nn.functional.relu(found).reshape(count, number, *found.shape[1:])


@tells_shapes
class TemporalShift(nn.Module):
    """A video of any length to an embedding, at the cost of a network of images.

    The residual form of TSM (Lin, Gan and Han, 2018, arXiv:1811.08383). Deployable: the shift is slices and a
    concatenation, frames are folded into the batch; any batch and number of frames in one graph, and frames of padding
    change nothing.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128), channels: int = 3, share: int = 8) -> None:
        """Make the network.

        Args:
            widths: Channels of each block; each halves height and width, and is at least ``share``.
            channels: Of the frames.
            share: One of so many channels moves each way; at least 2.

        Raises:
            ValueError: If there is no width, or one is below ``share``.
        """
        super().__init__()
        if share < 2 or min(widths, default=0) < share:
            raise ValueError(
                f"widths {list(widths)} and share {share}: one width or more, none below share, and share is 2 or more"
            )
        self.channels, self.stem = channels, stem(channels, widths[0])
        self.blocks = nn.ModuleList(ShiftedBlock(block, share) for block in residual_blocks(widths))

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """Embed videos.

        Args:
            video: FP32 [N, T, channels, H, W].
            mask: INT64 [N, T], 1 where a frame is real.

        Returns:
            FP32 [N, last of widths], the mean over the real frames; 0 where none is.

        Raises:
            ValueError: If they have another number of channels.
        """
        require(video, "video", "N", "T", self.channels, "H", "W")
        require(mask, "mask", "N", "T", integer=True)
        found = self.stem(video.flatten(0, 1))
        found = found.reshape(*video.shape[:2], *found.shape[1:])
        for block in self.blocks:
            found = block(found, mask)
        return mean_of_real(found.mean(dim=(3, 4)), mask)


@tells_shapes
class TwoStream(nn.Module):
    """A frame and the optical flow around it to probabilities of classes, a network for each, averaged.

    Simonyan and Zisserman, 2014, arXiv:1406.2199. Deployable: the flow is an input, computed by the client or a python
    step, since no engine has it; the two networks can be two components that an ensemble runs side by side; any batch.
    """

    def __init__(self, classes: int, flows: int = 10, widths: Sequence[int] = (32, 64, 128), channels: int = 3) -> None:
        """Make the networks.

        Args:
            classes: How many there are.
            flows: Frames of flow that are stacked, each of two channels (to the right, downwards).
            widths: Of both, as of `ConvNet`.
            channels: Of the frame.

        Raises:
            ValueError: If there is no width.
        """
        super().__init__()
        self.channels, self.flow_channels = channels, 2 * flows
        self.space = nn.Sequential(ConvNet(widths, channels), nn.Linear(widths[-1], classes))
        self.time = nn.Sequential(ConvNet(widths, 2 * flows), nn.Linear(widths[-1], classes))

    def forward(self, frame: Tensor, flow: Tensor) -> Tensor:
        """Classify.

        Args:
            frame: FP32 [N, channels, H, W].
            flow: FP32 [N, 2 * flows, H, W], moved pixels a frame.

        Returns:
            Probabilities FP32 [N, classes].

        Raises:
            ValueError: If one of both has another number of channels.
        """
        require(frame, "frame", "N", self.channels, "H", "W")
        require(flow, "flow", "N", self.flow_channels, "H", "W")
        found: Tensor = (self.space(frame).softmax(dim=-1) + self.time(flow).softmax(dim=-1)) / 2
        return found
