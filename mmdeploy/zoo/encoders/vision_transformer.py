"""A vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.shapes import class_token, divisible, require
from mmdeploy.zoo.encoders.transformer import Transformer
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class VisionTransformer(nn.Module):
    """Images of one size to an embedding, as ViT (Dosovitskiy et al., 2020, arXiv:2010.11929).

    Deployable: patches are a convolution whose stride is its kernel, positions are a parameter of the one size, so
    nothing is interpolated; any batch.
    """

    def __init__(
        self,
        size: tuple[int, int] = (224, 224),
        patch: int = 16,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        channels: int = 3,
    ) -> None:
        """Make the encoder; the defaults are ViT-B/16's.

        Args:
            size: Height and width of the images [pixels].
            patch: Height and width of a patch [pixels]; ``size`` is a multiple.
            width: Values of a token.
            depth: Layers.
            heads: Of each attention.
            channels: Of the images.

        Raises:
            ValueError: If ``size`` is no multiple of ``patch``, or ``width`` none of ``heads``.
        """
        super().__init__()
        self.taken = (channels, *size)
        rows, columns = (divisible(pixels, patch, "pixels", "patch") for pixels in size)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = class_token(width)
        self.positions = class_token(width, 1 + rows * columns)
        self.transformer = Transformer(width, depth, heads)

    def tokens(self, images: Tensor) -> Tensor:
        """Turn images FP32 [N, channels, height, width] into tokens [N, 1 + patches, width], the class token first.

        Raises:
            ValueError: If they are of another size, in eager mode or while tracing.
        """
        require(images, "images", "N", *self.taken)
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.positions
        found: Tensor = self.transformer(tokens)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Turn images FP32 [N, channels, height, width] into the class token's embedding [N, width].

        Raises:
            ValueError: If they are of another size, in eager mode or while tracing.
        """
        return self.tokens(images)[:, 0]
