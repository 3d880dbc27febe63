"""A slow model with a quick glance at the image before it; weights are drawn, so what it answers means nothing."""

import torch
from torch import Tensor, nn


def blocks(width: int, depth: int) -> nn.Sequential:
    """Return residual-free MLP blocks over [..., width]."""
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(depth))
    )


class Glance(nn.Module):
    """Pixels UINT8 [N, 3, 224, 224] to logits [N, 10], in one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.classify = nn.Conv2d(3, 64, 32, 32), nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify images."""
        return self.classify(torch.relu(self.patches(pixels.float() / 255)).mean(dim=(2, 3)))


class Image(nn.Module):
    """Pixels UINT8 [N, 3, 224, 224] to [N, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 256, 32, 32), blocks(256, 24)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images."""
        return self.blocks(self.patches(pixels.float() / 255).flatten(2).transpose(1, 2)).mean(dim=1)


class Audio(nn.Module):
    """Samples [N, 16000] to [N, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.blocks = nn.Linear(320, 256), blocks(256, 24)

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode recordings."""
        return self.blocks(self.frames(waveform.unflatten(1, (50, 320)))).mean(dim=1)


class Head(nn.Module):
    """Two embeddings [N, 256] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(512, 10)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Classify pairs."""
        return self.classify(torch.cat([image, audio], dim=1))


class Model(nn.Module):
    """All of it."""

    def __init__(self) -> None:
        super().__init__()
        self.glance, self.image, self.audio, self.head = Glance(), Image(), Audio(), Head()


def build() -> nn.Module:
    """Return the model with weights of a fixed seed."""
    torch.manual_seed(0)
    return Model()
