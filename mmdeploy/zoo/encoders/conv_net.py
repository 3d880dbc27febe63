"""A small residual network of convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmdeploy.zoo.encoders.shapes import require
from mmdeploy.zoo.outside import tells_shapes


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, the "basic block" of ResNets (He et al., 2015, arXiv:1512.03385)."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        """Make a block from ``channels`` to ``width`` channels; its first convolution has the stride."""
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Tensor:
        """Turn images [N, channels, H, W] into [N, width, H / stride, W / stride], rounded up."""
        found: Tensor = nn.functional.relu(self.convolutions(images) + self.shortcut(images))
        return found


@tells_shapes
class ConvNet(nn.Module):
    """Images to an embedding: a convolution, residual blocks, the mean over all places.

    He et al., 2015, arXiv:1512.03385, small: one basic block a width. Deployable: batch normalization is folded into
    the convolutions when it is exported, nothing depends on the height and width of the images; any batch.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128), channels: int = 3) -> None:
        """Make the network.

        Args:
            widths: Channels of each block; each halves height and width.
            channels: Of the images.

        Raises:
            ValueError: If there is no width.
        """
        super().__init__()
        if not widths:
            raise ValueError("widths is empty: one number of channels a block, at least one")
        self.channels = channels
        self.stem = stem(channels, widths[0])
        self.blocks = nn.ModuleList(residual_blocks(widths))

    def forward(self, images: Tensor) -> Tensor:
        """Turn images FP32 [N, channels, H, W] into an embedding [N, last of widths].

        Raises:
            ValueError: If they have another number of channels.
        """
        require(images, "images", "N", self.channels, "H", "W")
        found: Tensor = self.stem(images)
        for block in self.blocks:
            found = block(found)
        return found.mean(dim=(2, 3))


def stem(channels: int, width: int) -> nn.Sequential:
    """Make the convolution before the blocks."""
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def residual_blocks(widths: Sequence[int]) -> list[ResidualBlock]:
    """Make a block a width, each of which halves height and width."""
    pairs = zip((widths[0], *widths), widths, strict=False)
    return [ResidualBlock(before, width, stride=2) for before, width in pairs]
