"""Make `digits.npz`: handwritten digits and the same digits spoken by synthetic voices.

Run once, by hand; the result is committed, so that nothing else needs these tools:

    apt-get install espeak-ng            # 1.51 made the committed file
    pip install numpy scikit-learn scipy
    python recipes/spoken_digits/make_data.py

Images are scikit-learn's `load_digits`, unchanged (8 x 8, ink 0 to 16). Each spoken clip is the output of

    espeak-ng -v ACCENT+VARIANT -s WORDS_PER_MINUTE -p PITCH -z --stdout WORD

(16 bit, 22 050 Hz), resampled to 8 kHz, trimmed, scaled to a peak of 1 and stored as 8-bit mu-law (the curve
of ITU-T G.711). Everything is clean: noise and other damage are added at run time by `data.py`.

Split by speaker and by image. A speaker is one of espeak-ng's voice variants; it speaks with two accents. A
variant that is nearly a copy of one in another split (`robert` of `quincy`, `f2` of `f3`) is left out.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly
from sklearn.datasets import load_digits

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = (
    "en-us",
    "en",  # British; not "en-gb", to which espeak-ng 1.51 applies no variant
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-us-nyc",
    "en-gb-x-gbclan",
    "en-029",
    "en-gb-x-gbcwmd",
)
TAKES = ((170, 42), (205, 58))  # (words per minute, pitch 0..99)
SPLITS = ("train", "calibration", "validation", "test")
VARIANTS = {
    "train": (
        "Alex Alicia Andrea Andy Denis Diogo Gene Henrique Jacky Lee Mike RicishayMax2 Storm Tweaky "
        "anika benjamin croak david ed edward f4 grandma grandpa iven iven2 john kaukovalta klatt "
        "klatt3 klatt4 klatt5 klatt6 m1 m2 m4 m5 max paul pedro shelby travis whisper zac"
    ),
    "calibration": "Marco antonio gustave marcelo whisperf UniRobot",
    "validation": "Annie Nguyen boris klatt2 rob",
    "test": "Michael aunty f1 f3 m6 m7 pablo quincy sandro steph",
}
IMAGES_PER_DIGIT = {"calibration": 20, "validation": 20, "test": 40}  # the rest is for training
SAMPLE_RATE_HZ = 8000
CLIP_SAMPLES = 4000
ESPEAK_RATE_HZ = 22050
WAV_HEADER_BYTES = 44
MU = 255.0
SEED = 20240


def speak(word: str, voice: str, words_per_minute: int, pitch: int) -> NDArray[np.float64]:
    """Speak one word with espeak-ng.

    Returns:
        Samples at 22 050 Hz in [-1, 1].
    """
    options = f"-v {voice} -s {words_per_minute} -p {pitch} -z --stdout"
    command = ["espeak-ng", *options.split(), word]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(wav[WAV_HEADER_BYTES:], dtype="<i2") / 32768.0


def trimmed(samples: NDArray[np.float64], threshold: float = 0.02) -> NDArray[np.float64]:
    """Cut the silence at both ends, scale to a peak of 1, keep at most half a second (8 kHz)."""
    samples = samples / np.abs(samples).max()
    audible = np.flatnonzero(np.abs(samples) > threshold)
    return samples[audible[0] : audible[-1] + 1][:CLIP_SAMPLES]


def mu_law(samples: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Compress samples in [-1, 1] to 8 bits; 128 is silence."""
    compressed = np.sign(samples) * np.log1p(MU * np.abs(samples)) / np.log1p(MU)
    return np.asarray(np.round(compressed * 127.0) + 128, dtype=np.uint8)


def record(variant: str, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int16], NDArray[np.int8]]:
    """Record every digit and take of one speaker, each take with another accent.

    Args:
        variant: The espeak-ng variant that is the speaker's voice.
        number: Number of the speaker; chooses the accents.

    Returns:
        Clips [20, 4000] (mu-law, the word first, then silence), samples of each word [20], digits [20].
    """
    clips = np.full((len(WORDS) * len(TAKES), CLIP_SAMPLES), 128, dtype=np.uint8)
    lengths = np.zeros(len(clips), dtype=np.int16)
    for row in range(len(clips)):
        digit, take = divmod(row, len(TAKES))
        accent = ACCENTS[(number + 3 * take) % len(ACCENTS)]
        spoken = speak(WORDS[digit], f"{accent}+{variant}", *TAKES[take])
        word = trimmed(resample_poly(spoken, SAMPLE_RATE_HZ, ESPEAK_RATE_HZ))
        clips[row, : len(word)] = mu_law(word)
        lengths[row] = len(word)
    return clips, lengths, np.repeat(np.arange(len(WORDS), dtype=np.int8), len(TAKES))


def record_speakers() -> dict[str, NDArray[np.generic]]:
    """Record all speakers.

    Returns:
        `clips` [N, 4000]; `clip_lengths`, `clip_labels`, `clip_speakers` (index into `speakers`) and
        `clip_splits` (index into `SPLITS`) [N]; `speakers` [S], the names of the espeak-ng variants.
    """
    speakers = [variant for split in SPLITS for variant in VARIANTS[split].split()]
    splits = [number for number, split in enumerate(SPLITS) for _ in VARIANTS[split].split()]
    clips, lengths, labels = zip(*(record(variant, i) for i, variant in enumerate(speakers)), strict=True)
    clips_per_speaker = len(WORDS) * len(TAKES)
    return {
        "clips": np.concatenate(clips),
        "clip_lengths": np.concatenate(lengths),
        "clip_labels": np.concatenate(labels),
        "clip_speakers": np.repeat(np.arange(len(speakers), dtype=np.int8), clips_per_speaker),
        "clip_splits": np.repeat(np.array(splits, dtype=np.int8), clips_per_speaker),
        "speakers": np.array(speakers),
    }


def split_images(labels: NDArray[np.int64]) -> NDArray[np.int8]:
    """Assign each image to a split, the same number of every digit in each split but `train`.

    Returns:
        Index into `SPLITS` for each image [N].
    """
    random = np.random.RandomState(SEED)
    splits = np.zeros(len(labels), dtype=np.int8)
    for digit in range(len(WORDS)):
        rows, start = random.permutation(np.flatnonzero(labels == digit)), 0
        for split, count in IMAGES_PER_DIGIT.items():
            splits[rows[start : start + count]] = SPLITS.index(split)
            start += count
    return splits


def main() -> None:
    """Write `digits.npz` beside this file."""
    digits = load_digits()
    arrays = {
        "images": digits.images.astype(np.uint8),
        "image_labels": digits.target.astype(np.int8),
        "image_splits": split_images(digits.target),
        **record_speakers(),
    }
    path = Path(__file__).with_name("digits.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {len(arrays['clips'])} clips, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
