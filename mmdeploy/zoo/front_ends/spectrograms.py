"""Log-mel spectrograms and MFCC as a convolution and matrix products: TensorRT's parser knows no DFT.

Powers span more orders of magnitude than 8 bits tell apart: keep these modules out of INT8, by
``exclude: ["spectrogram/*"]`` where the model calls the module so.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.zoo.outside import tells_shapes

Scale = Literal["htk", "slaney"]


@tells_shapes
class LogMel(nn.Module):
    """Sound to the logarithm of its power in mel bands; nothing in it is trained.

    As `transformers.audio_utils.spectrogram` (and librosa) with a periodic Hann window, power 2 and ``center``.
    """

    fourier: Tensor
    mel: Tensor

    def __init__(
        self,
        rate: int,
        *,
        window: int = 400,
        hop: int = 160,
        bands: int = 80,
        low_hz: float = 0.0,
        high_hz: float | None = None,
        scale: Scale = "slaney",
        log: Literal["log10", "ln", "db"] = "log10",
        floor: float = 1e-10,
        center: bool = True,
    ) -> None:
        """Make the transform; the defaults are Whisper's at 16 kHz.

        Args:
            rate: Samples a second [Hz].
            window: Samples of a frame, and of its Fourier transform.
            hop: Samples from one frame to the next.
            bands: Mel bands.
            low_hz: Where the lowest band begins.
            high_hz: Where the highest ends; half the rate by default.
            scale: ``slaney`` (with bands of equal area) or ``htk`` (with bands of height 1).
            log: Of which kind: ``db`` is 10 log10.
            floor: Least power that is told apart.
            center: Whether frames are centred on multiples of ``hop``, the sound mirrored at its ends.

        Raises:
            ValueError: If no band would hold anything.
        """
        super().__init__()
        high = rate / 2 if high_hz is None else high_hz
        if not 0 <= low_hz < high <= rate / 2:
            raise ValueError(f"bands from {low_hz} to {high} Hz: at {rate} Hz they lie within 0 and {rate / 2}")
        self.window, self.hop, self.log, self.floor, self.center = window, hop, log, floor, center
        self.register_buffer("fourier", fourier_basis(window), persistent=False)
        self.register_buffer("mel", mel_filters(rate, window, bands, (low_hz, high), scale), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """Turn samples into bands.

        Args:
            sound: Samples, FP32 [N, T]; T is at least ``window``, with ``center`` half of it and one more.

        Returns:
            Logarithms of power [N, frames, bands]; frames is ``T // hop + 1`` with ``center``, else
            ``(T - window) // hop + 1``.
        """
        waves = sound[:, None]
        if self.center:
            waves = functional.pad(waves, (self.window // 2, self.window // 2), mode="reflect")
        real, imaginary = functional.conv1d(waves, self.fourier, stride=self.hop).chunk(2, dim=1)
        power = (real * real + imaginary * imaginary).transpose(1, 2) @ self.mel
        logarithm = torch.log(power.clamp(min=self.floor))
        return logarithm * {"ln": 1.0, "log10": 1 / math.log(10), "db": 10 / math.log(10)}[self.log]


@tells_shapes
class Mfcc(nn.Module):
    """Sound to mel-frequency cepstral coefficients: the cosine transform (DCT-II, orthonormal) of a `LogMel`."""

    cosine: Tensor

    def __init__(self, spectrogram: LogMel, coefficients: int = 13) -> None:
        """Make the transform.

        Args:
            spectrogram: Whose bands are transformed.
            coefficients: How many are kept, from the first.

        Raises:
            ValueError: If there are fewer bands.
        """
        super().__init__()
        bands = spectrogram.mel.shape[1]
        if coefficients > bands:
            raise ValueError(f"{coefficients} coefficients of {bands} bands: at most as many as bands")
        self.spectrogram = spectrogram
        band = torch.arange(bands, dtype=torch.float64)[:, None] + 0.5
        cosine = torch.cos(math.pi / bands * band * torch.arange(coefficients, dtype=torch.float64))
        cosine *= math.sqrt(2 / bands)
        cosine[:, 0] /= math.sqrt(2)
        self.register_buffer("cosine", cosine.float(), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """Turn samples [N, T] into coefficients [N, frames, coefficients]."""
        found: Tensor = self.spectrogram(sound) @ self.cosine
        return found


def fourier_basis(window: int) -> Tensor:
    """Return Hann-windowed cosines, then sines, as filters of a convolution [2 * (window // 2 + 1), 1, window]."""
    time = torch.arange(window, dtype=torch.float64)
    frequency = torch.arange(window // 2 + 1, dtype=torch.float64)[:, None]
    angle = 2 * math.pi / window * frequency * time
    shape = torch.hann_window(window, dtype=torch.float64)
    return (torch.cat([angle.cos(), angle.sin()]) * shape)[:, None].float()


def mel_filters(rate: int, window: int, bands: int, hertz: tuple[float, float], scale: Scale) -> Tensor:
    """Return the weight of each Fourier bin (row) in each band (column) [window // 2 + 1, bands].

    Raises:
        ValueError: If a band holds no bin.
    """
    low, high = (_to_mel(torch.tensor(end, dtype=torch.float64), scale) for end in hertz)
    edges = _to_hertz(torch.linspace(0, 1, bands + 2, dtype=torch.float64) * (high - low) + low, scale)
    bins = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    weights = torch.minimum(rising, falling).clamp(min=0)
    if scale == "slaney":
        weights *= (2 / (edges[2:] - edges[:-2]))[:, None]
    empty = (weights.sum(dim=1) == 0).nonzero()
    if len(empty):
        raise ValueError(
            f"band {int(empty[0])} of {bands} holds no bin of a window of {window} samples at {rate} Hz: take a longer "
            "window or fewer bands"
        )
    return weights.T.contiguous().float()


# Slaney's scale: linear up to 1 kHz (15 mel), above it 27 mel to a factor of 6.4 (Auditory Toolbox, 1998).
_LOG_STEP = math.log(6.4) / 27


def _to_mel(hertz: Tensor, scale: Scale) -> Tensor:
    if scale == "htk":
        return 2595 * torch.log10(1 + hertz / 700)
    return torch.where(hertz < 1000, hertz * 3 / 200, 15 + torch.log(hertz.clamp(min=1000) / 1000) / _LOG_STEP)


def _to_hertz(mel: Tensor, scale: Scale) -> Tensor:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * _LOG_STEP))
