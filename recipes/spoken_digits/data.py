"""Pairs of one handwritten and one spoken digit, damaged so that neither is enough alone.

Needs NumPy and the committed `digits.npz` only; what gives files also Pillow and soundfile. The four splits share no
image and no speaker. Damage is drawn from a seeded `RandomState`, whose stream NumPy froze (NEP 19), so a split is the
same in each run.

One fifth of the images and one fifth of the recordings, drawn independently, are damaged badly, the others
lightly: most pairs have one good half at least, and which one it is has to be told from the inputs.
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

ARCHIVE = Path(__file__).with_name("digits.npz")
SPLITS = ("train", "calibration", "validation", "test")  # in the order of the archive's split numbers
CLASSES = 10
IMAGE_SIDE = 8
INK_LEVELS = 16.0
WAVEFORM_SAMPLES = 4000  # half a second at 8 kHz
MU = 255.0  # mu-law companding constant of ITU-T G.711
BADLY_DAMAGED = 0.2  # share of samples, each modality on its own
NOISE_BANK_SAMPLES = 1 << 17

Sample = tuple[dict[str, NDArray[np.generic]], int]


class Recordings(NamedTuple):
    """The clean images and clips of one split."""

    images: NDArray[np.uint8]  # [I, 8, 8], ink 0..16
    image_labels: NDArray[np.int8]  # [I]
    clips: NDArray[np.float32]  # [C, 4000] in [-1, 1], the word first, then silence
    clip_lengths: NDArray[np.int16]  # [C] samples of the word
    clip_labels: NDArray[np.int8]  # [C]
    speakers: NDArray[np.str_]  # [C] the espeak-ng variant of each clip


class Pairs(NamedTuple):
    """What clients send, for N pairs."""

    images: NDArray[np.uint8]  # [N, 8, 8], 0..255
    waveforms: NDArray[np.float32]  # [N, 4000] in [-1, 1]
    labels: NDArray[np.int64]  # [N], 0..9


@cache
def recordings(split: str) -> Recordings:
    """Read one split of the archive.

    Args:
        split: One of `SPLITS`.
    """
    with np.load(ARCHIVE, allow_pickle=False) as archive:
        in_split = archive["image_splits"] == SPLITS.index(split)
        spoken = archive["clip_splits"] == SPLITS.index(split)
        return Recordings(
            images=archive["images"][in_split],
            image_labels=archive["image_labels"][in_split],
            clips=expand_mu_law(archive["clips"][spoken]),
            clip_lengths=archive["clip_lengths"][spoken],
            clip_labels=archive["clip_labels"][spoken],
            speakers=archive["speakers"][archive["clip_speakers"][spoken]],
        )


def expand_mu_law(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Expand 8-bit mu-law, 128 being silence, to samples in [-1, 1]."""
    compressed = (np.arange(256) - 128.0) / 127.0
    table = np.sign(compressed) * np.expm1(np.abs(compressed) * np.log1p(MU)) / MU
    return np.asarray(table[codes], dtype=np.float32)


def pairs(split: str, count: int, seed: int) -> Pairs:
    """Pair images with clips of the same digit and damage both.

    Each image is used equally often (to within one); its clip is drawn from all clips of its digit.

    Args:
        split: One of `SPLITS`.
        count: Number of pairs.
        seed: Fixes every draw.
    """
    clean, random = recordings(split), RandomState(seed)
    image_rows = np.resize(random.permutation(len(clean.images)), count)
    labels = clean.image_labels[image_rows].astype(np.int64)
    rows_by_digit = np.stack([np.flatnonzero(clean.clip_labels == digit) for digit in range(CLASSES)])
    clip_rows = rows_by_digit[labels, random.randint(rows_by_digit.shape[1], size=count)]
    images = damage_images(clean.images[image_rows], random)
    waveforms = damage_clips(clean.clips[clip_rows], clean.clip_lengths[clip_rows], random)
    return Pairs(images, waveforms, labels)


def draw(
    random: RandomState, bad: NDArray[np.bool_], light: tuple[float, float], heavy: tuple[float, float]
) -> NDArray[np.float32]:
    """Draw one number a sample, uniform in `light`, or in `heavy` where `bad` is set.

    Returns:
        Numbers [N].
    """
    low, high = np.where(bad[:, None], heavy, light).T
    return np.asarray(low + (high - low) * random.random_sample(len(bad)), dtype=np.float32)


def damage_images(ink: NDArray[np.uint8], random: RandomState) -> NDArray[np.uint8]:
    """Fade, cover and add sensor noise.

    Args:
        ink: Clean images [N, 8, 8], 0..16.
        random: Source of every draw.

    Returns:
        Pixels [N, 8, 8], 0..255.
    """
    count = len(ink)
    bad = random.random_sample(count) < BADLY_DAMAGED
    contrast = draw(random, bad, (0.5, 1.0), (0.3, 0.6))[:, None, None]
    pedestal = random.random_sample((count, 1, 1)) * (1.0 - contrast)
    noise_std = draw(random, bad, (0.02, 0.08), (0.08, 0.2))[:, None, None]
    pixels = pedestal + contrast * ink / INK_LEVELS
    pixels = np.where(covered(bad, random), random.random_sample((count, 1, 1)), pixels)
    pixels += noise_std * random.standard_normal(pixels.shape)
    return np.asarray(np.rint(pixels.clip(0.0, 1.0) * 255.0), dtype=np.uint8)


def covered(bad: NDArray[np.bool_], random: RandomState) -> NDArray[np.bool_]:
    """Place one rectangular cover on each image: up to 2 x 2 pixels, 3 to 5 a side on the badly damaged.

    Returns:
        Mask [N, 8, 8], set where the image is hidden.
    """
    axis = np.arange(IMAGE_SIDE)
    spans = []
    for _ in range(2):
        size = np.floor(draw(random, bad, (0.0, 3.0), (3.0, 6.0)))
        start = np.floor(random.random_sample(len(bad)) * (IMAGE_SIDE + 1 - size))
        spans.append((axis >= start[:, None]) & (axis < (start + size)[:, None]))
    return np.asarray(spans[0][:, :, None] & spans[1][:, None, :])


def damage_clips(clips: NDArray[np.float32], lengths: NDArray[np.int16], random: RandomState) -> NDArray[np.float32]:
    """Shift, change the tempo, lose a packet, set the level and add coloured noise.

    Args:
        clips: Clean speech [N, 4000], the word at the start.
        lengths: Samples of each word [N].
        random: Source of every draw.

    Returns:
        Waveforms [N, 4000] in [-1, 1].
    """
    bad = random.random_sample(len(clips)) < BADLY_DAMAGED
    speech, played = shifted(clips, lengths, random)
    level = np.sqrt(np.square(speech).sum(axis=1) / played)  # RMS over the word
    snr_db = draw(random, bad, (3.0, 40.0), (-12.0, 0.0))
    peak = 10.0 ** (-1.0 + 0.9 * random.random_sample(len(clips)))  # -20 to -2 dB of full scale
    lose_packet(speech, draw(random, bad, (0.0, 200.0), (200.0, 1000.0)), random)
    noise = coloured_noise(len(clips), random) * (level * 10.0 ** (-snr_db / 20.0))[:, None]
    mixed = speech + noise
    mixed *= (peak / np.abs(mixed).max(axis=1))[:, None]
    return np.asarray(mixed, dtype=np.float32)


def shifted(
    clips: NDArray[np.float32], lengths: NDArray[np.int16], random: RandomState
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Play each word up to 15 % faster or slower, at a random place in the half second.

    Returns:
        Waveforms [N, 4000] and the new lengths of the words, in samples [N].
    """
    tempo = 0.85 + 0.3 * random.random_sample(len(clips))
    new_lengths = np.minimum(lengths / tempo, WAVEFORM_SAMPLES)
    start = np.floor(random.random_sample(len(clips)) * (WAVEFORM_SAMPLES + 1 - new_lengths))
    time = np.arange(WAVEFORM_SAMPLES, dtype=np.float64)
    speech = np.empty_like(clips)
    for row, clip in enumerate(clips):
        speech[row] = np.interp((time - start[row]) * tempo[row], time, clip, left=0.0, right=0.0)
    return speech, new_lengths.astype(np.float32)


def lose_packet(speech: NDArray[np.float32], gap: NDArray[np.float32], random: RandomState) -> None:
    """Silence one stretch of `gap` samples of each waveform, in place."""
    starts = random.random_sample(len(speech)) * (WAVEFORM_SAMPLES - gap)
    for waveform, start, length in zip(speech, starts.astype(int), gap.astype(int), strict=True):
        waveform[start : start + length] = 0.0


@cache
def noise_bank() -> NDArray[np.float32]:
    """Make noise with power falling as 1, 1/f and 1/f^2 (white, pink, brown) of unit RMS.

    Returns:
        Noise [3, 131072].
    """
    spectrum = np.fft.rfft(RandomState(0).standard_normal(NOISE_BANK_SAMPLES))
    frequency = np.maximum(np.fft.rfftfreq(NOISE_BANK_SAMPLES, 1.0 / 8000.0), 100.0)  # flat under 100 Hz
    noise = np.stack([np.fft.irfft(spectrum * frequency**-tilt) for tilt in (0.0, 0.5, 1.0)])
    return np.asarray(noise / noise.std(axis=1, keepdims=True), dtype=np.float32)


def coloured_noise(count: int, random: RandomState) -> NDArray[np.float32]:
    """Cut white, pink or brown noise for each waveform.

    Returns:
        Noise [N, 4000] of unit RMS.
    """
    bank = noise_bank()
    colours = random.randint(len(bank), size=count)
    starts = random.randint(NOISE_BANK_SAMPLES - WAVEFORM_SAMPLES, size=count)
    return np.stack([bank[c, s : s + WAVEFORM_SAMPLES] for c, s in zip(colours, starts, strict=True)])


def samples(batch: Pairs) -> Iterator[Sample]:
    """Yield each pair as the feed of one request (no batch dimension) with its label."""
    for image, waveform, label in zip(*batch, strict=True):
        yield {"image": image, "audio": waveform}, int(label)


def training(epoch: int = 0) -> Iterator[Sample]:
    """Yield 4096 pairs of the training split, paired and damaged anew in each epoch, for passes that train."""
    return samples(pairs("train", count=4096, seed=2000 + epoch))


def calibration() -> Iterator[Sample]:
    """Yield 512 pairs of speakers and images that were not trained on."""
    return samples(pairs("calibration", count=512, seed=2))


def validation() -> Iterator[Sample]:
    """Yield 1000 pairs for choosing between models."""
    return samples(pairs("validation", count=1000, seed=3))


def evaluation() -> Iterator[Sample]:
    """Yield 1600 pairs of the test split: 400 images, each damaged and paired four times."""
    return samples(pairs("test", count=1600, seed=4))


def files(batch: Pairs) -> Iterator[tuple[dict[str, bytes], int]]:
    """Yield the same pairs as a client has them: a PNG and a WAV of 16 bits."""
    for feed, label in samples(batch):
        yield {"image": png(feed["image"]), "audio": wav(feed["audio"])}, label


def png(pixels: NDArray[np.generic]) -> bytes:
    """Write grey levels as a PNG file, which keeps them as they are."""
    from PIL import Image

    with io.BytesIO() as stream:
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()


def wav(waveform: NDArray[np.generic], rate: int = 8000) -> bytes:
    """Write samples as a WAV file."""
    import soundfile

    with io.BytesIO() as stream:
        soundfile.write(stream, waveform, rate, format="WAV", subtype="PCM_16")
        return stream.getvalue()


def calibration_files() -> Iterator[tuple[dict[str, bytes], int]]:
    """Yield the pairs of `calibration` as files."""
    return files(pairs("calibration", count=512, seed=2))


def evaluation_files() -> Iterator[tuple[dict[str, bytes], int]]:
    """Yield the pairs of `evaluation` as files."""
    return files(pairs("test", count=1600, seed=4))
