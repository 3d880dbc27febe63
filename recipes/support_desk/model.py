"""Two encoders, a gated fusion and three heads, all but the heads of `mmdeploy.zoo`.

    ids, mask INT64 [N, 24] --------> TextEncoder  -- FP32 [N, 48] --+            +-> intent    FP32 [N, 4]
                                                                     +-> Desk ----+-> sentiment FP32 [N, 3]
    pixels UINT8 [N, 24, 32, 3] ----> ImageEncoder -- FP32 [N, 48] --+            +-> urgency   FP32 [N, 3]

Where there is no screenshot, `desk.no_screenshot` stands in for what the image encoder would give; it is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo import NormalisePixels
from mmdeploy.zoo.encoders import ConvNet, TextTransformer
from mmdeploy.zoo.fusion import GatedFusion

CLASSES = {"intent": 4, "sentiment": 3, "urgency": 3}
WIDTH = 48
VOCABULARY = 160
LONGEST_TEXT = 24


class ImageEncoder(nn.Module):
    """Screenshots to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = NormalisePixels((0.7, 0.7, 0.7), (0.3, 0.3, 0.3))
        self.network = ConvNet((8, 24, WIDTH))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode UINT8 [N, 24, 32, 3] to FP32 [N, WIDTH]."""
        found: Tensor = self.network(self.pixels(pixels))
        return found


class Desk(nn.Module):
    """Embeddings of both to scores of intent, sentiment and urgency."""

    def __init__(self) -> None:
        super().__init__()
        self.no_screenshot = nn.Parameter(torch.zeros(WIDTH))
        self.fusion = GatedFusion((WIDTH, WIDTH), 64)
        self.shared = nn.Sequential(nn.Linear(64 + 2 * WIDTH, 64), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(64, number) for name, number in CLASSES.items()})

    def forward(self, text: Tensor, screenshot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give scores FP32 [N, 4], [N, 3] and [N, 3]."""
        shared = self.shared(torch.cat([self.fusion(text, screenshot), text, screenshot], dim=1))
        intent, sentiment, urgency = (head(shared) for head in self.heads.values())
        return intent, sentiment, urgency


class SupportDesk(nn.Module):
    """The whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = TextTransformer(VOCABULARY, LONGEST_TEXT, width=WIDTH, depth=1, heads=4)
        self.image_encoder = ImageEncoder()
        self.desk = Desk()


def build() -> SupportDesk:
    """Make the network without weights."""
    return SupportDesk().eval()
