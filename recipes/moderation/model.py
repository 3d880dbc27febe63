"""Two encoders and a bilinear fusion, all of `mmdeploy.zoo`, that answers probabilities; calibrated by a temperature.

ids, mask INT64 [N, 12] --------> TextEncoder  -- FP32 [N, 48] --+
                                                                 +-> Judge --> probabilities FP32 [N, 3]
pixels UINT8 [N, 32, 32, 3] ----> ImageEncoder -- FP32 [N, 48] --+
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo import NormalisePixels
from mmdeploy.zoo.encoders import ConvNet, TextTransformer
from mmdeploy.zoo.fusion import BilinearFusion

CLASSES = 3
WIDTH = 48
VOCABULARY = 128
LONGEST_TEXT = 12


class ImageEncoder(nn.Module):
    """Pictures to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = NormalisePixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        self.network = ConvNet((8, 24, WIDTH))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode UINT8 [N, 32, 32, 3] to FP32 [N, WIDTH]."""
        found: Tensor = self.network(self.pixels(pixels))
        return found


class Judge(nn.Module):
    """Embeddings of both to probabilities: what is said times what is shown."""

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fusion = BilinearFusion((WIDTH, WIDTH), 32)
        self.classify = nn.Sequential(nn.Linear(32 + 2 * WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES))
        self.register_buffer("temperature", torch.ones(1))

    def logits(self, text: Tensor, image: Tensor) -> Tensor:
        """Give scores FP32 [N, CLASSES], before the temperature."""
        found: Tensor = self.classify(torch.cat([self.fusion(text, image), text, image], dim=1))
        return found

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """Give probabilities FP32 [N, CLASSES] (temperature scaling: Guo et al., 2017, ICML)."""
        return (self.logits(text, image) / self.temperature).softmax(dim=1)


class Moderation(nn.Module):
    """The whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = TextTransformer(VOCABULARY, LONGEST_TEXT, width=WIDTH, depth=1, heads=4)
        self.image_encoder = ImageEncoder()
        self.judge = Judge()


def build() -> Moderation:
    """Make the network without weights."""
    return Moderation().eval()
