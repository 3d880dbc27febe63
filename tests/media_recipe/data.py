"""What clients send: files of several formats, and text; the label is what the model answers to what they hold."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WORDS = ("an", "owl", "cat", "dog", "sees", "a")


def photo(random: np.random.Generator, index: int) -> bytes:
    """Return a picture as PNG, JPEG or WebP."""
    from PIL import Image

    small = Image.fromarray(random.integers(0, 255, (4, 5, 3), dtype=np.uint8))
    with io.BytesIO() as stream:
        size = (int(random.integers(20, 60)), int(random.integers(20, 60)))
        small.resize(size).save(stream, ("PNG", "JPEG", "WEBP")[index % 3])
        return stream.getvalue()


def clip(random: np.random.Generator, index: int) -> bytes:
    """Return a sound in stereo as WAV."""
    rate, length = (8000, 16000, 11025)[index % 3], int(random.integers(800, 4000))
    tone = np.sin(np.arange(length)[:, None] * random.uniform(0.05, 0.5, 2)) * 20_000
    data = tone.astype("<i2").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 2, rate, rate * 4, 4, 16,
                       b"data", len(data))  # fmt: skip
    return head + data


def caption(random: np.random.Generator) -> str:
    """Return some words."""
    return " ".join(random.choice(WORDS, int(random.integers(1, 12))))


def samples(seed: int, count: int) -> Iterator[dict[str, object]]:
    """Yield what clients send."""
    random = np.random.default_rng(seed)
    for index in range(count):
        yield {"photo": photo(random, index), "clip": clip(random, index), "caption": caption(random)}


def calibration() -> Iterator[dict[str, object]]:
    """Yield 16 samples."""
    return samples(1, 16)


def evaluation() -> Iterator[tuple[dict[str, object], int]]:
    """Yield 24 samples with labels, which the model gives to what this package makes of them by hand."""
    import torch
    from model import build
    from preprocess import count_words

    from mmdeploy.preprocess import DecodeAudio, DecodeImage, Tokenize

    see = DecodeImage(resize=20, crop=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    hear, read = DecodeAudio(rate=8000, samples=1600, max_seconds=5), Tokenize("tokenizer.json", length=8)
    read.open(Path(__file__).parent)
    model = build().eval()
    for feed in samples(2, 24):
        arrays = [
            see.row({"data": feed["photo"]})["pixels"], hear.row({"data": feed["clip"]})["samples"],
            *(read.row({"text": feed["caption"]})[name] for name in ("ids", "mask")),
            count_words(str(feed["caption"]).encode(), 0.5),
        ]  # fmt: skip
        pixels, sound, ids, mask, counts = (torch.from_numpy(array)[None] for array in arrays)
        with torch.inference_mode():
            logits, _ = model.fusion(model.see(pixels), model.hear(sound), ids, mask, counts)
        yield feed, int(logits.argmax())


def black() -> bytes:
    """Return a black picture."""
    from PIL import Image

    with io.BytesIO() as stream:
        Image.new("RGB", (24, 24)).save(stream, "PNG")
        return stream.getvalue()


def silence(length: int = 1600) -> bytes:
    """Return a sound of zeros as WAV."""
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 2 * length, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16,
                       b"data", 2 * length)  # fmt: skip
    return head + bytes(2 * length)


def lacking() -> Iterator[dict[str, object]]:
    """Yield what clients send who have no photo or a bad one, or a clip that is empty or silent."""
    for index, feed in enumerate(samples(3, 24)):
        if index % 4 == 1:
            del feed["photo"]
        if index in (3, 10):
            feed["photo"] = black()
        if index in (7, 12):
            feed["photo"] = bytes(feed["photo"])[:40]  # type: ignore[arg-type]
        if index % 6 == 2:
            feed["clip"] = b""
        if index in (9, 10):
            feed["clip"] = silence()
        yield feed
