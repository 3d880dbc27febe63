"""Transformers on spectrograms, and a tower that embeds sounds beside text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.shapes import class_token, require
from mmdeploy.zoo.encoders.transformer import Transformer
from mmdeploy.zoo.front_ends.spectrograms import LogMel
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class SpectrogramTransformer(nn.Module):
    """A spectrogram of one length to an embedding, as AST (Gong, Chung and Glass, 2021, arXiv:2104.01778).

    With a class and a distillation token, whose mean is the embedding, as in the published checkpoints. Deployable: the
    overlapping patches are one strided convolution, positions a parameter of the one size; any batch.
    """

    def __init__(
        self,
        frames: int = 1024,
        bands: int = 128,
        *,
        patch: int = 16,
        stride: int = 10,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ) -> None:
        """Make the encoder; the defaults are those of the paper.

        Args:
            frames: Of a spectrogram.
            bands: Of a frame.
            patch: Frames and bands of a patch.
            stride: Frames and bands from one patch to the next.
            width: Values of a token.
            depth: Layers.
            heads: Of each attention.

        Raises:
            ValueError: If a patch is larger than the spectrogram, or ``width`` no multiple of ``heads``.
        """
        super().__init__()
        if min(frames, bands) < patch or stride < 1:
            raise ValueError(
                f"patches of {patch} with stride {stride} in {frames} frames of {bands} bands: a patch fits into both, "
                "and the stride is 1 or more"
            )
        self.taken = (frames, bands)
        count = ((frames - patch) // stride + 1) * ((bands - patch) // stride + 1)
        self.patches = nn.Conv2d(1, width, patch, stride=stride)
        self.class_tokens = class_token(width, 2)
        self.positions = class_token(width, 2 + count)
        self.transformer = Transformer(width, depth, heads)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Turn spectrograms FP32 [N, frames, bands], as `LogMel` gives them, into an embedding [N, width].

        Raises:
            ValueError: If they are of another size, in eager mode or while tracing.
        """
        require(spectrogram, "spectrogram", "N", *self.taken)
        patches = self.patches(spectrogram.transpose(1, 2)[:, None]).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_tokens.expand(patches.shape[0], -1, -1), patches], dim=1) + self.positions
        found: Tensor = self.transformer(tokens)
        return found[:, :2].mean(dim=1)


@tells_shapes
class AudioTower(nn.Module):
    """A sound to a unit vector that is compared with those of texts.

    As MuLan's audio tower (Huang et al., 2022, arXiv:2208.12415: AST) and CLAP's projection (Elizalde et al., 2022,
    arXiv:2206.04769). Deployable: the spectrogram is a convolution and a product (`LogMel`), since TensorRT knows no
    DFT; keep it out of INT8 by ``exclude: ["spectrogram/*"]``.
    """

    def __init__(
        self,
        spectrogram: LogMel,
        samples: int,
        width: int = 512,
        *,
        patch: int = 16,
        stride: int = 10,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 768,
    ) -> None:
        """Make the tower.

        Args:
            spectrogram: The front end.
            samples: Of each sound; cut or filled up to that by ``decode_audio``.
            width: Values of the embedding.
            patch: Frames and bands of a patch.
            stride: Frames and bands from one patch to the next.
            depth: Layers.
            heads: Of each attention.
            hidden: Values of a token.

        Raises:
            ValueError: If a sound gives less than a patch, or ``hidden`` is no multiple of ``heads``.
        """
        super().__init__()
        self.samples, self.spectrogram = samples, spectrogram
        frames = (samples if spectrogram.center else samples - spectrogram.window) // spectrogram.hop + 1
        bands = spectrogram.mel.shape[1]
        self.norm = nn.BatchNorm1d(bands)
        self.encoder = SpectrogramTransformer(
            frames, bands, patch=patch, stride=stride, width=hidden, depth=depth, heads=heads
        )
        self.projection = nn.Linear(hidden, width)

    def forward(self, sound: Tensor) -> Tensor:
        """Turn sounds FP32 [N, samples] into vectors of length 1 [N, width].

        Raises:
            ValueError: If they are of another length, in eager mode or while tracing.
        """
        require(sound, "sound", "N", self.samples)
        bands = self.norm(self.spectrogram(sound).transpose(1, 2)).transpose(1, 2)
        return nn.functional.normalize(self.projection(self.encoder(bands)), dim=-1)
