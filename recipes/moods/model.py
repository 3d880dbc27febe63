"""Three encoders and a fusion that shares its trust out among the modalities that are there; all of `mmdeploy.zoo`.

    ids, mask INT64 [N, T] -------> TextEncoder  -- FP32 [N, 48] --+
    sound FP32 [N, samples] ------> AudioEncoder -- FP32 [N, 48] --+-> Fusion --> logits [N, 5]
    video UINT8 [N, 6, 24, 24] ---> VideoEncoder -- FP32 [N, 48] --+
    which of them are there BOOL [N, 1] each ----------------------+

Nodes of the exported graphs are named after these modules: the recipe keeps `spectrogram/*` out of INT8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo import LogMel
from mmdeploy.zoo.encoders import TemporalShift, TextTransformer, TimeFrequencyEncoder
from mmdeploy.zoo.fusion import AdaptiveFusion

CLASSES = 5
WIDTH = 48
VOCABULARY = 192
LONGEST_TEXT = 24
RATE_HZ = 8000
BANDS = 32


class AudioEncoder(nn.Module):
    """Sounds of any length to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram = LogMel(RATE_HZ, window=256, hop=100, bands=BANDS, high_hz=3000, floor=1e-7, center=False)
        self.encoder = TimeFrequencyEncoder(BANDS, WIDTH, depth=3, kernel=9)

    def forward(self, sound: Tensor) -> Tensor:
        """Encode samples FP32 [N, T] to FP32 [N, WIDTH]."""
        frames = (self.spectrogram(sound) + 2) / 2
        found: Tensor = self.encoder(frames, torch.ones_like(frames[:, :, 0]).long())[1]
        return found


class VideoEncoder(nn.Module):
    """Grey videos to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TemporalShift((8, 24, WIDTH), channels=1)

    def forward(self, video: Tensor) -> Tensor:
        """Encode grey levels UINT8 [N, T, H, W] to FP32 [N, WIDTH]."""
        frames = video.float() / 128 - 1
        found: Tensor = self.encoder(frames[:, :, None], torch.ones_like(frames[:, :, 0, 0]).long())
        return found


class Fusion(nn.Module):
    """Embeddings, and which of them are there, to scores of moods."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = AdaptiveFusion((WIDTH, WIDTH, WIDTH), 2 * WIDTH)
        self.classify = nn.Sequential(nn.Linear(2 * WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, CLASSES))

    def forward(
        self, text: Tensor, audio: Tensor, video: Tensor, has_text: Tensor, has_audio: Tensor, has_video: Tensor
    ) -> Tensor:
        """Fuse FP32 [N, WIDTH] of each modality; presence is BOOL [N, 1]. Returns logits FP32 [N, CLASSES]."""
        presence = torch.cat([has_text, has_audio, has_video], dim=1).float()
        found: Tensor = self.classify(self.fusion(text, audio, video, presence)[0])
        return found


class Moods(nn.Module):
    """The whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = TextTransformer(VOCABULARY, LONGEST_TEXT, width=WIDTH, depth=2, heads=4)
        self.audio_encoder = AudioEncoder()
        self.video_encoder = VideoEncoder()
        self.fusion = Fusion()


def build() -> Moods:
    """Make the network without weights."""
    return Moods().eval()
