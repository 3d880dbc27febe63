"""People in one of five moods: what they write, how they sound, how their face moves. All of it is made here.

Needs NumPy only. Every draw is from a seeded `RandomState`, whose stream NumPy froze (NEP 19), so a split is the same
in each run; splits are told apart by their seeds.

A mood is a point of three axes (Russell and Mehrabian, 1977): pleasure, arousal, dominance. What a person writes tells
mostly pleasure, the voice arousal, the face pleasure and dominance: each modality shows the point with noise of its
own, large on the axes that it hardly tells. One fifth of each, drawn independently, is bad: it shows next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

MOODS = ("calm", "happy", "sad", "angry", "afraid")
#: Pleasure, arousal and dominance of each mood.
POINTS = np.array([(0.7, -0.8, 0.1), (0.9, 0.7, 0.3), (-0.8, -0.8, -0.4), (-0.7, 0.8, 0.9), (-0.7, 0.7, -0.9)])
#: Standard deviation with which each modality shows the three axes.
NOISE = {"text": (0.4, 1.5, 1.0), "audio": (1.6, 0.3, 0.8), "video": (0.7, 1.2, 0.4)}
BAD_SHARE, BAD_NOISE = 0.2, 1.5  # share of samples, each modality on its own; what is added to its noise
SEEDS = {"train": 11, "validation": 12, "calibration": 13, "test": 14}

RATE_HZ = 8000
SAMPLES_STEP = 2000  # sounds are 0.5 to 1.5 s, in steps of a quarter
FRAMES = 6
SIDE = 24

#: Phrases by what they tell: pleasant, open, unpleasant.
EVENTS = (
    ("i got the job", "we won again", "she said yes", "my sister is coming home", "the garden is in bloom",
     "dinner was delicious", "the exam went well", "they gave us a room with a view", "the baby is asleep"),
    ("i am at the office", "she called me", "the meeting is over", "we leave tomorrow", "the doctor wants to talk",
     "they changed the plan", "it happened again", "he is at the door", "the letter came", "it is tuesday"),
    ("the train was cancelled", "they lost my order", "nobody answered me", "it broke twice today", "he left",
     "my bag is gone", "we lost again", "they cut the power", "the dog is ill", "the test came back bad"),
)  # fmt: skip
#: Remarks by what they tell of dominance: in command, open, at the mercy of others.
REMARKS = (
    ("they will hear from me", "enough is enough", "i will sort it out", "whose fault is that", "i decide that"),
    ("well that is that", "of course", "i can not believe it", "just great", "finally", "so there we are", "oh my"),
    ("what if it gets worse", "i do not know what to do", "can you stay with me", "there is nothing to be done",
     "i hope somebody helps"),
)  # fmt: skip
#: Openers by what they tell of arousal: awake, open, at rest.
OPENERS = (
    ("listen", "quick", "now", "hey hey"),
    ("so", "well", "you know", "today"),
    ("anyway", "slowly", "hm", "later"),
)

Sample = tuple[dict[str, object], int]


class People(NamedTuple):
    """What N people send."""

    texts: list[str]
    sounds: list[NDArray[np.float32]]  # [samples] each, in [-1, 1]
    videos: NDArray[np.uint8]  # [N, 6, 24, 24]
    labels: NDArray[np.int64]  # [N], index of MOODS


def people(split: str, count: int, seed: int = 0) -> People:
    """Make people in moods that are equally frequent.

    Args:
        split: One of `SEEDS`.
        count: Number of people.
        seed: Makes other people of the same split.
    """
    random = RandomState(1000 * SEEDS[split] + seed)
    labels = random.permutation(np.arange(count) % len(MOODS)).astype(np.int64)
    shown = {name: expressed(labels, noise, random) for name, noise in NOISE.items()}
    texts = [sentence(point, random) for point in shown["text"]]
    sounds = [voice(point, random) for point in shown["audio"]]
    return People(texts, sounds, faces(shown["video"], random), labels)


def expressed(labels: NDArray[np.int64], noise: tuple[float, ...], random: RandomState) -> NDArray[np.float64]:
    """Draw what a modality shows of each mood: pleasure, arousal and dominance [N, 3]."""
    bad = random.random_sample((len(labels), 1)) < BAD_SHARE
    return POINTS[labels] + (np.array(noise) + BAD_NOISE * bad) * random.standard_normal((len(labels), 3))


def sentence(point: NDArray[np.float64], random: RandomState) -> str:
    """Write one to three phrases; each is open where its axis is hardly shown."""
    pleasure, arousal, dominance = (0 if value > 0.35 else 2 if value < -0.35 else 1 for value in point)
    phrases = [EVENTS[pleasure]]
    if random.random_sample() < 0.6:
        phrases.insert(0, OPENERS[arousal])
    if random.random_sample() < 0.7:
        phrases.append(REMARKS[dominance])
    return " ".join(phrase[random.randint(len(phrase))] for phrase in phrases)


def voice(point: NDArray[np.float64], random: RandomState) -> NDArray[np.float32]:
    """Sing syllables of a vowel: tempo, range and level by arousal; tremor, fall and brightness by dominance.

    Returns:
        Samples in [-1, 1], at 8 kHz, of a length that is a multiple of 2000.
    """
    _, arousal, dominance = np.clip(point, -1.6, 1.6)
    time = np.arange(SAMPLES_STEP * random.randint(2, 7)) / RATE_HZ
    tempo = 3.2 + 1.1 * arousal + 0.4 * random.standard_normal()  # syllables a second
    syllable = time * max(tempo, 1.0) + random.random_sample()
    contour = np.interp(syllable, np.arange(16), random.uniform(-1, 1, 16))
    octaves = (0.22 + 0.1 * arousal) * contour - 0.2 * (0.3 + dominance) * (time - time[-1] / 2)
    octaves += 0.04 * max(0.0, -dominance) * np.sin(2 * np.pi * (6.5 + random.standard_normal() * 0.4) * time)
    pitch_hz = random.uniform(95, 240) * 2.0**octaves
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    tilt = 1.6 - 0.35 * dominance - 0.2 * arousal
    once = np.exp(1j * phase)
    sung = np.zeros_like(once)
    for harmonic in range(14, 0, -1):  # Horner's rule: the sum of harmonic ** -tilt * sin(harmonic * phase)
        sung = (sung + harmonic**-tilt) * once
    wave = sung.imag
    wave *= (0.5 - 0.5 * np.cos(2 * np.pi * syllable)) ** (0.6 + 0.2 * arousal)
    level_db = -24 + 5 * arousal + 2.5 * random.standard_normal()
    wave *= 10 ** (level_db / 20) / np.sqrt(np.mean(wave**2))
    wave += 10 ** (random.uniform(-48, -34) / 20) * random.standard_normal(len(time))
    return np.asarray(wave.clip(-1, 1), dtype=np.float32)


def faces(points: NDArray[np.float64], random: RandomState) -> NDArray[np.uint8]:
    """Draw moving faces: the mouth bends by pleasure, brows and eyes move by dominance, the head by arousal.

    Args:
        points: What is shown of pleasure, arousal and dominance [N, 3].
        random: Source of every draw.

    Returns:
        Grey levels [N, 6, 24, 24].
    """
    count = len(points)
    pleasure, arousal, dominance = (column[:, None, None, None] for column in np.clip(points, -1.6, 1.6).T)
    drawn = {name: random.random_sample((count, 1, 1, 1)) for name in ("x", "y", "size", "skin", "phase", "back")}
    turn = 2 * np.pi * (np.arange(FRAMES) / FRAMES * 1.5)[None, :, None, None] + 2 * np.pi * drawn["phase"]
    moved = 0.02 + 0.05 * (1 + arousal).clip(0)
    axis = np.linspace(-1, 1, SIDE)
    size = 0.85 + 0.2 * drawn["size"]
    across = (axis[None, None, None, :] - 0.3 * (drawn["x"] - 0.5) - moved * np.sin(turn)) / size
    down = (axis[None, None, :, None] - 0.3 * (drawn["y"] - 0.5) - 0.5 * moved * np.sin(2 * turn)) / size

    def dark(distance: NDArray[np.float64], width: float) -> NDArray[np.float64]:
        return np.exp(-((distance / width) ** 2))

    side = np.abs(across)
    skin = 0.55 + 0.35 * drawn["skin"]
    light = np.where((across / 0.8) ** 2 + down**2 < 1, skin, 0.1 + 0.3 * drawn["back"] + 0.1 * across)
    wide = 0.09 - 0.04 * dominance.clip(-1.2, 0.8)
    eyes = np.exp(-(((side - 0.33) / 0.11) ** 2) - ((down + 0.2) / wide) ** 2)
    brow_height = -0.47 + 0.05 * dominance - 0.3 * dominance * (side - 0.33)
    brows = dark(down - brow_height, 0.06) * (np.abs(side - 0.33) < 0.2)
    opened = (0.1 + 0.08 * arousal) * (0.5 + 0.5 * np.sin(3 * turn))
    bend = 0.45 + 0.22 * pleasure * (0.35 - 3 * across**2)
    mouth = dark(down - bend, 0.08) + dark(down - bend - opened, 0.07)
    light = light - 0.45 * (eyes + brows + mouth.clip(0, 1) * (side < 0.38))
    light = light + (0.02 + 0.06 * random.random_sample((count, 1, 1, 1))) * random.standard_normal(light.shape)
    return np.asarray(np.rint(light.clip(0, 1) * 255), dtype=np.uint8)


def samples(made: People) -> Iterator[Sample]:
    """Yield what each person sends, as the feed of one request, with the mood."""
    for text, sound, video, label in zip(*made, strict=True):
        yield {"text": text, "audio": sound, "video": video}, int(label)


def calibration() -> Iterator[Sample]:
    """Yield 256 people who were not trained on."""
    return samples(people("calibration", 256))


def validation() -> Iterator[Sample]:
    """Yield 600 people for choosing between models."""
    return samples(people("validation", 600))


def evaluation() -> Iterator[Sample]:
    """Yield 1000 people of the test split."""
    return samples(people("test", 1000))


def calibration_small() -> Iterator[Sample]:
    """Yield 32 of those of `calibration`, for a small build."""
    return samples(people("calibration", 32))


def evaluation_small() -> Iterator[Sample]:
    """Yield 100 people of the test split, for a small build."""
    return samples(people("test", 100))
