"""Small valid files of each format."""

import io
from typing import Any

import numpy as np


def image(kind: str = "PNG", size: tuple[int, int] = (12, 9), mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    random = np.random.default_rng(sum(size))
    pixels = Image.fromarray(random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    with io.BytesIO() as stream:
        pixels.save(stream, kind, **options)
        return stream.getvalue()


def sound(
    kind: str = "WAV", seconds: float = 0.1, rate: int = 8000, channels: int = 1, subtype: str | None = None
) -> bytes:
    import soundfile

    time = np.arange(int(seconds * rate)) / rate
    samples = np.stack([np.sin(2 * np.pi * 220 * (one + 1) * time) * 0.5 for one in range(channels)], axis=1)
    with io.BytesIO() as stream:
        soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
        return stream.getvalue()
