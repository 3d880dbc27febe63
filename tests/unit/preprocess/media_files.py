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


def clip(kind: str = "mp4", count: int = 12, size: tuple[int, int] = (32, 48)) -> bytes:
    """Return a clip whose frame n is grey 20 n."""
    import av

    with io.BytesIO() as stream:
        codec = {"mp4": "mpeg4", "webm": "libvpx", "gif": "gif"}[kind]
        with av.open(stream, "w", format=kind) as container:
            video = container.add_stream(codec, rate=10)
            video.height, video.width = size
            video.pix_fmt = "rgb8" if kind == "gif" else "yuv420p"
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 20 * index, np.uint8), format="rgb24")
                for packet in video.encode(frame):
                    container.mux(packet)
            for packet in video.encode():
                container.mux(packet)
        return stream.getvalue()
