"""Smaller modules in the place of either tower, of stated sizes; each ends in the same space as the original.

An image student is the original's blocks with fewer channels, or a single convolution of patches before one block. A
text student is a small transformer whose words begin as MiniLM's own: its table, brought to the student's width by its
principal components, so that words that no caption of the training split has keep their neighbours.
"""

from __future__ import annotations

import torch
from model import GRID, SPACE, minilm
from torch import Tensor, nn

from mmdeploy.zoo.encoders.conv_net import ResidualBlock
from mmdeploy.zoo.encoders.text_transformer import TextTransformer

LONGEST = 24


class ImageStudent(nn.Module):
    """UINT8 [N, 48, 48, 3] to unit vectors [N, 128]."""

    def __init__(self, body: nn.Module, width: int) -> None:
        """Take what turns [N, 3, 48, 48] into [N, width, 6, 6]."""
        super().__init__()
        self.body = body
        self.projection = nn.Linear(GRID * GRID * width, SPACE)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed images."""
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        return nn.functional.normalize(self.projection(self.body(scaled).flatten(1)), dim=-1)


class TextStudent(nn.Module):
    """Ids and mask, INT64 [N, 24], to unit vectors [N, 128]."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        table = minilm().embeddings.word_embeddings.weight.detach()
        self.encoder = TextTransformer(len(table), LONGEST, width=width, depth=depth, heads=width // 32)
        self.encoder.words.weight = nn.Parameter(narrowed(table, width))
        self.projection = nn.Linear(width, SPACE)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed texts."""
        return nn.functional.normalize(self.projection(self.encoder(ids, mask)), dim=-1)


def narrowed(table: Tensor, width: int) -> Tensor:
    """Bring a table of words [words, values] to fewer values by its principal components, of standard deviation 0.5."""
    centred = table - table.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    found = centred @ vectors[:, -width:]
    return 0.5 * found / found.std()


def convolution(channels: int, width: int, side: int, stride: int) -> nn.Sequential:
    """Make a convolution, its normalization, and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, side, stride, padding=(side - stride + 1) // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def residual(stem: int, middle: int, width: int) -> ImageStudent:
    """Make the original's shape, its channels 24, 40, 64 there."""
    blocks = (ResidualBlock(stem, middle, stride=2), ResidualBlock(middle, width, stride=2))
    return ImageStudent(nn.Sequential(convolution(3, stem, 3, 2), *blocks), width)


def patches(stem: int, width: int) -> ImageStudent:
    """Make a convolution of 8 x 8 pixels, 4 apart, before one block."""
    return ImageStudent(nn.Sequential(convolution(3, stem, 8, 4), ResidualBlock(stem, width, stride=2)), width)


def image_half() -> ImageStudent:
    """A quarter of the products: half of the channels."""
    return residual(12, 20, 32)


def image_third() -> ImageStudent:
    """A third of the channels."""
    return residual(8, 14, 24)


def image_patches() -> ImageStudent:
    """One block, of 32 channels, behind patches."""
    return patches(16, 32)


def text_2x128() -> TextStudent:
    """Two layers of 128."""
    return TextStudent(128, 2)


def text_1x128() -> TextStudent:
    """One layer of 128."""
    return TextStudent(128, 1)


def text_1x64() -> TextStudent:
    """One layer of 64."""
    return TextStudent(64, 1)
