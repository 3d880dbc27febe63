"""What the catalogue says of the front ends."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdeploy.core.sizes import Size
from mmdeploy.zoo.block import Block
from mmdeploy.zoo.front_ends.pixels import NormalisePixels, ResizePixels
from mmdeploy.zoo.front_ends.spectrograms import LogMel, Mfcc

_RATE = 8000
_SOUND = {"sound": {1: Size("samples", 400, 1600)}}
_NO_WEIGHTS = "nothing in it is trained"
_POWERS = "powers span more orders of magnitude than 8 bits tell apart"


def _sound(batch: int, seed: int, samples: int = 800) -> dict[str, Tensor]:
    """Return tones that fade, with harmonics and a little hiss."""
    made = torch.Generator().manual_seed(seed)
    pitch = 100 + 400 * torch.rand(batch, 1, generator=made)
    time = torch.arange(samples) / _RATE
    tone = sum(torch.sin(2 * math.pi * pitch * time * harmonic) / harmonic for harmonic in (1, 2, 3))
    hiss = 0.01 * torch.randn(batch, samples, generator=made)
    return {"sound": 0.2 * tone * torch.exp(-8 * time) + hiss}


def _pixels(batch: int, seed: int) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    slope = torch.linspace(0, 200, 12)[:, None, None] * torch.rand(batch, 1, 1, 3, generator=made)
    return {"pixels": (slope + 40 * torch.rand(batch, 12, 16, 3, generator=made)).clamp(0, 255).to(torch.uint8)}


def _images(batch: int, seed: int) -> dict[str, Tensor]:
    return {"images": _pixels(batch, seed)["pixels"].permute(0, 3, 1, 2).float() / 255}


def _log_mel() -> LogMel:
    return LogMel(_RATE, window=128, hop=64, bands=16).eval()


LOG_MEL = Block(
    name="LogMel",
    what="a sound to the logarithm of its power in mel bands",
    paper="Davis and Mermelstein, 1980, IEEE TASSP 28(4)",
    deploys="the Fourier transform is a convolution and the bands a product: TensorRT's parser knows no DFT",
    make=_log_mel,
    samples=_sound,
    outputs=("bands",),
    varies=_SOUND,
    not_pruned=_NO_WEIGHTS,
    not_quantized=_POWERS,
)

MFCC = Block(
    name="Mfcc",
    what="a sound to mel-frequency cepstral coefficients",
    paper="Davis and Mermelstein, 1980, IEEE TASSP 28(4)",
    deploys="the cosine transform is one more product behind LogMel",
    make=lambda: Mfcc(_log_mel()).eval(),
    samples=_sound,
    outputs=("coefficients",),
    varies=_SOUND,
    not_pruned=_NO_WEIGHTS,
    not_quantized=_POWERS,
)

NORMALISE_PIXELS = Block(
    name="NormalisePixels",
    what="UINT8 pixels, channels last, to what a vision encoder takes",
    paper="Krizhevsky et al., 2012, NeurIPS",
    deploys="pixels cross the wire as UINT8, and the graph scales them",
    make=lambda: NormalisePixels(mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28)).eval(),
    samples=_pixels,
    outputs=("images",),
    not_pruned=_NO_WEIGHTS,
    not_quantized=_NO_WEIGHTS,
)

RESIZE_PIXELS = Block(
    name="ResizePixels",
    what="images of one size to another, smoothed where they shrink, as Pillow does",
    paper="Keys, 1981, IEEE TASSP 29(6)",
    deploys="two matrix products: engines differ in what their Resize does at edges",
    make=lambda: ResizePixels(size=(12, 16), to=(8, 8)).eval(),
    samples=_images,
    outputs=("resized",),
    not_pruned=_NO_WEIGHTS,
    not_quantized=_NO_WEIGHTS,
)
