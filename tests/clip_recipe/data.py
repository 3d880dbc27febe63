"""Pictures as PNG and JPEG files, and sentences of few words and of many, as clients send them."""

import io
from collections.abc import Iterator

import numpy as np

WORDS = tuple("a photo of the small green cat and two old dogs near red water under trees".split())  # noqa: SIM905


def picture(seed: int) -> bytes:
    """Return a file: coarse colours, of a size and a format that the seed draws."""
    from PIL import Image

    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    image = coarse.resize(tuple(map(int, random.integers(33, 90, 2))), Image.Resampling.BICUBIC)
    written = io.BytesIO()
    image.save(written, format=("PNG", "JPEG")[seed % 2])
    return written.getvalue()


def sentence(seed: int) -> str:
    """Return a few words; now and then one or none, and now and then more than 77 tokens."""
    random = np.random.default_rng(seed)
    if seed % 12 == 10:
        return ""
    count = (1, 90)[seed % 8 == 4] if seed % 4 == 0 else int(random.integers(2, 12))
    return " ".join(random.choice(WORDS, count))


def evaluation() -> Iterator[dict[str, object]]:
    """Yield 12 pairs."""
    for seed in range(12):
        yield {"photo": picture(seed), "caption": sentence(seed)}
