"""What clients send: short clips, GIF and MP4 in turn, of squares that drift over a ground of one colour, the label."""

import io
from collections.abc import Iterator

import numpy as np

COLOURS = ("red", "green", "blue")
_CODECS = {"gif": ("gif", "rgb8"), "mp4": ("mpeg4", "yuv420p"), "webm": ("libvpx", "yuv420p")}


def clip(frames: np.ndarray, kind: str) -> bytes:
    """Return a clip of frames, UINT8 [T, H, W, 3]."""
    import av

    codec, pixels = _CODECS[kind]
    with io.BytesIO() as stream:
        with av.open(stream, "w", format=kind) as container:
            video = container.add_stream(codec, rate=10)
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], pixels
            for frame in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(video.encode())
        return stream.getvalue()


def picture(random: np.random.Generator, colour: int, count: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """Return ``count`` frames whose ground is of a colour, with a grey square that drifts."""
    frames = np.empty((count, *size, 3), np.uint8)
    frames[:] = random.integers(0, 90, 3)
    frames[..., colour] = random.integers(150, 255)
    for index, frame in enumerate(frames):
        frame[4 : 4 + 8, index : index + 8] = 25 * index % 255
    return frames


def samples(seed: int, count: int) -> Iterator[tuple[dict[str, object], int]]:
    """Yield clips of 3 to 12 frames with the place of their colour."""
    random = np.random.default_rng(seed)
    for index in range(count):
        frames = picture(random, index % len(COLOURS), int(random.integers(3, 13)))
        yield {"film": clip(frames, ("gif", "mp4")[index // len(COLOURS) % 2])}, index % len(COLOURS)


def training() -> Iterator[tuple[dict[str, object], int]]:
    """Yield 36 samples."""
    return samples(1, 36)


def validation() -> Iterator[tuple[dict[str, object], int]]:
    """Yield 24 others."""
    return samples(2, 24)


def evaluation() -> Iterator[tuple[dict[str, object], int]]:
    """Yield 24 others."""
    return samples(3, 24)


def calibration() -> Iterator[dict[str, object]]:
    """Yield 12 others, without labels."""
    return (feed for feed, _ in samples(4, 12))
