"""Frames are encoded one by one, a recurrent layer remembers what they show, and a fusion adds what was heard.

    frames UINT8 [N, T, 32, 32, 3] -> FrameEncoder - [N, T, 64] -> Memory - [N, 96] --+
                                                                                      +-> Fusion --> action [N, 8]
    sound FP32 [N, 4000] -----------> AudioEncoder - [N, 64] -------------------------+          --> digit [N, 10]
    is there a sound BOOL [N, 1] -----------------------------------------------------+

What a digit does is seen in the order of the frames alone; which digit it is, is seen and heard. Nodes of the exported
graphs are named after these modules: the recipe keeps `spectrogram/*` out of INT8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo import LogMel
from mmdeploy.zoo.encoders import TimeFrequencyEncoder
from mmdeploy.zoo.fusion import AdaptiveFusion

ACTIONS, DIGITS = 8, 10
FRAMES, SIDE = 8, 32
WIDTH, MEMORY = 64, 96
RATE_HZ = 8000
BANDS = 32


class FrameEncoder(nn.Module):
    """Frames to features that keep where things are: the last layer sees the whole grid, not its mean."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, width in ((1, 16), (16, 32), (32, 48)):
            convolution = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(48 * (SIDE // 8) ** 2, WIDTH)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode UINT8 [N, T, 32, 32, 3] to FP32 [N, T, WIDTH]; colours are averaged."""
        grey = frames.float().mean(dim=-1) / 128 - 1
        found = self.convolutions(grey.reshape(-1, 1, SIDE, SIDE)).flatten(1)
        return self.project(found).reshape(-1, frames.shape[1], WIDTH)


class Memory(nn.Module):
    """A recurrent layer that reads frames in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, MEMORY, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """Read FP32 [N, T, WIDTH]; gives what is remembered in the end, FP32 [N, MEMORY]."""
        found: Tensor = self.gru(features)[0][:, -1]
        return found


class AudioEncoder(nn.Module):
    """Words to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram = LogMel(RATE_HZ, window=256, hop=100, bands=BANDS, high_hz=3800, floor=1e-6, center=False)
        self.encoder = TimeFrequencyEncoder(BANDS, WIDTH, depth=3, kernel=9)

    def forward(self, sound: Tensor) -> Tensor:
        """Encode samples FP32 [N, 4000] to FP32 [N, WIDTH]."""
        frames = (self.spectrogram(sound) + 2) / 2
        found: Tensor = self.encoder(frames, torch.ones_like(frames[:, :, 0]).long())[1]
        return found


class Fusion(nn.Module):
    """What was seen, and heard if there is a sound, to scores of actions and digits."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = AdaptiveFusion((MEMORY, WIDTH), 128)
        self.action = nn.Sequential(nn.Linear(MEMORY, 64), nn.ReLU(), nn.Linear(64, ACTIONS))
        self.digit = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, DIGITS))

    def forward(self, seen: Tensor, heard: Tensor, has_audio: Tensor) -> tuple[Tensor, Tensor]:
        """Score what was seen FP32 [N, MEMORY] and heard [N, WIDTH]; BOOL [N, 1] says whether there is a sound.

        Returns:
            Scores of the actions FP32 [N, 8] and of the digits [N, 10].
        """
        there = has_audio.float()
        fused = self.fusion(seen, heard, torch.cat([torch.ones_like(there), there], dim=1))[0]
        return self.action(seen), self.digit(fused)


class MovingDigits(nn.Module):
    """The whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.frame_encoder = FrameEncoder()
        self.memory = Memory()
        self.audio_encoder = AudioEncoder()
        self.fusion = Fusion()


def build() -> MovingDigits:
    """Make the network without weights."""
    return MovingDigits().eval()
