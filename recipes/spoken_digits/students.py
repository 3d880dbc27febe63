"""Smaller modules that take the place of the three components: one block instead of two, half as wide.

Each ends with a linear layer that brings its tokens to the width that the others know.
"""

from __future__ import annotations

from model import WIDTH, AudioEncoder, GatedFusion, ImageEncoder
from torch import Tensor, nn

NARROW = 96
HEADS = 4


class SmallImageEncoder(nn.Module):
    """UINT8 [N, 8, 8] to tokens [N, 17, 192]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ImageEncoder(NARROW, depth=1, heads=HEADS)
        self.widen = nn.Linear(NARROW, WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images."""
        return self.widen(self.encoder(pixels))


class SmallAudioEncoder(nn.Module):
    """FP32 [N, 4000] to tokens [N, 25, 192]; the spectrogram is the original's."""

    def __init__(self) -> None:
        super().__init__()
        whole = AudioEncoder(NARROW, depth=1, heads=HEADS)
        self.spectrogram, self.convolutions, self.blocks, self.norm = (
            whole.spectrogram, whole.convolutions, whole.blocks, whole.norm,
        )  # fmt: skip
        self.position = whole.position
        self.widen = nn.Linear(NARROW, WIDTH)

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode recordings."""
        features = self.convolutions(self.spectrogram(waveform).transpose(1, 2)).transpose(1, 2)
        return self.widen(self.norm(self.blocks(features + self.position)))


class SmallFusion(nn.Module):
    """Tokens [N, 17, 192] and [N, 25, 192] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow_image, self.narrow_audio = nn.Linear(WIDTH, NARROW), nn.Linear(WIDTH, NARROW)
        self.fusion = GatedFusion(NARROW, HEADS)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Classify pairs."""
        return self.fusion(self.narrow_image(image), self.narrow_audio(audio))
