"""Clips of a handwritten digit that moves, and the digit spoken: which digit is it, and what does it do?

Needs NumPy, PyAV for the clips, and what `recipes/spoken_digits` commits: `digits.npz`, with the images of
scikit-learn's `load_digits` and words spoken by synthetic voices. Its four splits share no image and no speaker.
Every draw is from a seeded `RandomState`, whose stream NumPy froze (NEP 19), so a split is the same in each run.

A clip is an MP4 file of 8 to 40 frames, of 48 x 48 pixels. The digit moves to a side, turns, comes nearer or goes away,
from a place, tilt and size that are drawn: one frame does not tell what it does. In one clip of four most of the digit
is covered, and in one recording of five the noise is louder than the word, drawn independently.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

ARCHIVE = Path(__file__).parents[1] / "spoken_digits" / "digits.npz"
SPLITS = ("train", "calibration", "validation", "test")  # in the order of the archive's split numbers
#: What a digit does; each by how far it goes to the right and down, turns clockwise and grows.
ACTIONS = {
    "right": (1, 0, 0, 0), "left": (-1, 0, 0, 0), "down": (0, 1, 0, 0), "up": (0, -1, 0, 0),
    "turns clockwise": (0, 0, 1, 0), "turns counterclockwise": (0, 0, -1, 0),
    "comes nearer": (0, 0, 0, 1), "goes away": (0, 0, 0, -1),
}  # fmt: skip
SIDE = 48
SHORTEST, LONGEST = 8, 40  # frames
SAMPLES = 4000  # half a second at 8 kHz
MU = 255.0  # of the mu-law of ITU-T G.711
COVERED_SHARE, NOISY_SHARE = 0.25, 0.2

Sample = tuple[dict[str, object], dict[str, int]]


class Scenes(NamedTuple):
    """What N clients send."""

    films: list[NDArray[np.uint8]]  # [T, 48, 48] each: grey levels, not yet a file
    sounds: NDArray[np.float32]  # [N, 4000] in [-1, 1]
    actions: NDArray[np.int64]  # [N], index of ACTIONS
    digits: NDArray[np.int64]  # [N], 0..9


@cache
def recordings(split: str) -> tuple[NDArray[np.generic], ...]:
    """Read a split: images [I, 8, 8] from 0 to 16, their digits [I], words [C, 4000], their lengths and digits [C]."""
    compressed = (np.arange(256) - 128.0) / 127.0
    table = np.sign(compressed) * np.expm1(np.abs(compressed) * np.log1p(MU)) / MU
    with np.load(ARCHIVE, allow_pickle=False) as archive:
        seen = archive["image_splits"] == SPLITS.index(split)
        heard = archive["clip_splits"] == SPLITS.index(split)
        return (
            archive["images"][seen], archive["image_labels"][seen].astype(np.int64),
            table[archive["clips"][heard]], archive["clip_lengths"][heard], archive["clip_labels"][heard],
        )  # fmt: skip


def scenes(split: str, count: int, seed: int = 0) -> Scenes:
    """Make scenes whose actions are equally frequent, and whose digits nearly are.

    Args:
        split: One of `SPLITS`.
        count: Number of scenes.
        seed: Makes other scenes of the same split.
    """
    images, image_digits, words, lengths, word_digits = recordings(split)
    random = RandomState(1000 * (1 + SPLITS.index(split)) + seed)
    rows = np.resize(random.permutation(len(images)), count)
    actions = random.permutation(np.arange(count) % len(ACTIONS)).astype(np.int64)
    digits = image_digits[rows]
    films = [film(image, tuple(ACTIONS.values())[action], random)
             for image, action in zip(images[rows], actions, strict=True)]  # fmt: skip
    spoken = [random.choice(np.flatnonzero(word_digits == digit)) for digit in digits]
    sounds = np.stack([sound(words[row][: lengths[row]], random) for row in spoken])
    return Scenes(films, sounds, actions, digits)


def film(image: NDArray[np.uint8], action: tuple[int, ...], random: RandomState) -> NDArray[np.uint8]:
    """Draw a digit that does something.

    Args:
        image: Ink [8, 8], 0 to 16.
        action: A value of `ACTIONS`.
        random: Source of every draw.

    Returns:
        Grey levels [T, 48, 48], T from `SHORTEST` to `LONGEST`.
    """
    count = random.randint(SHORTEST, LONGEST + 1)
    done = np.linspace(-0.5, 0.5, count) * random.choice([-1, 1], 4)[:, None]  # what it does besides, either way
    mainly = np.array(action)
    there = np.linspace(-0.5, 0.5, count)
    least = np.array([13.0, 13.0, 0.9, 0.55])  # pixels, pixels, radians, octaves
    swing = least * random.uniform(1.0, 1.5, 4)
    drift = least * random.uniform(0.0, 0.2, 4)
    moved = np.where(mainly[:, None], (mainly * swing)[:, None] * there, drift[:, None] * done)
    right, down, turn, octaves = moved + (random.uniform(-1, 1, 4) * [6, 6, 0.25, 0.2])[:, None]
    size = 2.9 * 2.0**octaves  # pixels of the film that a pixel of the image takes
    ink = inked(image, random)
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    x, y = axis[None, None, :] - right[:, None, None], axis[None, :, None] - down[:, None, None]
    cosine, sine = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    size = size[:, None, None]
    drawn = between(ink, (cosine * y - sine * x) / size + 5.5, (cosine * x + sine * y) / size + 5.5)
    dark, bright = sorted(random.uniform(0, 255, 2))
    if bright - dark < 90:
        dark, bright = max(0.0, dark - 60), min(255.0, bright + 60)
    grey = (bright - drawn * (bright - dark)) if random.randint(2) else (dark + drawn * (bright - dark))
    grey += random.uniform(2, 14) * random.standard_normal(grey.shape)
    return np.asarray(np.rint(grey.clip(0, 255)), dtype=np.uint8)


def inked(image: NDArray[np.uint8], random: RandomState) -> NDArray[np.float64]:
    """Return the image in a frame of two empty pixels [12, 12], 0 to 1; covered in `COVERED_SHARE` of all."""
    ink = np.zeros((12, 12))
    ink[2:10, 2:10] = image / 16.0
    if random.random_sample() < COVERED_SHARE:
        high, wide = random.randint(4, 8, 2)
        top, left = random.randint(2, 11 - high), random.randint(2, 11 - wide)
        ink[top : top + high, left : left + wide] = random.uniform(0.2, 0.9)
    return ink


def between(
    values: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Read values [12, 12] between their pixels; those at the edge go on outside."""
    rows, columns = (where.clip(0, 10.999) for where in (rows, columns))
    top, left = rows.astype(int), columns.astype(int)
    low, right = rows - top, columns - left
    above = values[top, left] * (1 - right) + values[top, left + 1] * right
    below = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
    return np.asarray(above * (1 - low) + below * low)


def sound(word: NDArray[np.float64], random: RandomState) -> NDArray[np.float32]:
    """Put a word somewhere into half a second, with noise; louder than the word in `NOISY_SHARE` of all."""
    heard, start = np.zeros(SAMPLES), random.randint(SAMPLES + 1 - len(word))
    heard[start : start + len(word)] = word
    snr_db = random.uniform(-14, -4) if random.random_sample() < NOISY_SHARE else random.uniform(6, 40)
    noise = np.convolve(random.standard_normal(SAMPLES + 1), [1, random.uniform(-0.5, 0.9)], "valid")
    heard += noise / noise.std() * np.sqrt(np.mean(word**2)) * 10 ** (-snr_db / 20)
    return np.asarray(heard / np.abs(heard).max() * 10 ** random.uniform(-1, -0.1), dtype=np.float32)


def mp4(frames: NDArray[np.uint8]) -> bytes:
    """Write grey levels [T, H, W] as a client's file: MPEG-4, 15 frames a second."""
    import av

    with io.BytesIO() as stream:
        with av.open(stream, "w", format="mp4") as container:
            video = container.add_stream("mpeg4", rate=15, options={"qscale": "3", "flags": "+qscale"})
            video.height, video.width, video.pix_fmt = *frames.shape[1:], "yuv420p"
            for frame in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
            container.mux(video.encode())
        return stream.getvalue()


def samples(made: Scenes) -> Iterator[Sample]:
    """Yield what each client sends, with both labels."""
    for film_, sound_, action, digit in zip(*made, strict=True):
        yield {"video": mp4(film_), "audio": sound_}, {"action": int(action), "digit": int(digit)}


def calibration() -> Iterator[Sample]:
    """Yield 200 scenes of images and speakers that were not trained on."""
    return samples(scenes("calibration", 200))


def evaluation() -> Iterator[Sample]:
    """Yield 1000 scenes of the test split."""
    return samples(scenes("test", 1000))


def streams(made: Scenes) -> Iterator[Sample]:
    """Yield the same as a camera has it: all frames [T, 32, 32, 3], as they come."""
    from mmdeploy.preprocess import SampleFrames

    for (sent, labels), film_ in zip(samples(made), made.films, strict=True):
        step = SampleFrames(size=(32, 32), frames=len(film_), layout="THWC")
        yield {"frames": step.row({"data": sent["video"]})["frames"], "audio": sent["audio"]}, labels


def calibration_stream() -> Iterator[Sample]:
    """Yield 100 of those of `calibration`, frame by frame."""
    return streams(scenes("calibration", 100))


def evaluation_stream() -> Iterator[Sample]:
    """Yield 400 scenes of the test split, frame by frame."""
    return streams(scenes("test", 400))


def calibration_small() -> Iterator[Sample]:
    """Yield 32 scenes, for a small build."""
    return samples(scenes("calibration", 32))


def evaluation_small() -> Iterator[Sample]:
    """Yield 96 scenes of the test split, for a small build."""
    return samples(scenes("test", 96))


def evaluation_stream_small() -> Iterator[Sample]:
    """Yield 32 scenes of the test split frame by frame, for a small build."""
    return streams(scenes("test", 32))
