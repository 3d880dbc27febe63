"""Small rendered scenes and what people would call them: two objects, where they lie to each other, and on what.

A scene is two objects (6 shapes in 8 colours), one left of the other or above it, on one of 5 grounds: 22,560 different
ones, each of which differs from 29 others in one word. A scene is rendered anew for each use: places, sizes, angles,
light and noise are drawn; and it is described in one of eight wordings. The splits share no scene.

Needs NumPy only. Everything is drawn from a seeded `RandomState`, whose stream NumPy froze (NEP 19).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

SIDE = 48
COLOURS = {
    "red": (220, 30, 30),
    "orange": (250, 140, 20),
    "yellow": (250, 230, 60),
    "green": (20, 130, 40),
    "blue": (40, 60, 220),
    "purple": (130, 40, 160),
    "pink": (250, 150, 190),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
GROUNDS = {
    "on green grass": (120, 190, 100),
    "on brown sand": (200, 170, 120),
    "in white snow": (240, 243, 248),
    "in a night sky": (50, 50, 85),
    "on blue water": (130, 190, 225),
}
WORDINGS = (
    (
        "a {a} to the left of a {b} {on}",
        "a {b} to the right of a {a}, {on}",
        "{on}, a {a} is left of a {b}",
        "there is a {b} with a {a} on its left, {on}",
    ),
    (
        "a {a} above a {b} {on}",
        "a {b} below a {a}, {on}",
        "{on}, a {a} is over a {b}",
        "there is a {b} with a {a} on top of it, {on}",
    ),
)
OBJECTS = len(COLOURS) * len(SHAPES)
SPLITS = {"test": 1000, "validation": 1000, "calibration": 256}  # scenes; all others are for training
GALLERY = 10_000  # scenes that are searched: those of the test split, and others

Sample = tuple[dict[str, object], int]


@cache
def order() -> NDArray[np.int64]:
    """Return every scene's number, first and second object differing, in an order of their own."""
    numbers = np.arange(OBJECTS * OBJECTS * 2 * len(GROUNDS))
    first, second = parts(numbers)[:2]
    return RandomState(0).permutation(numbers[first != second])


def parts(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Take scenes' numbers apart: first object, second object, 0 for left of and 1 for above, ground."""
    rest, ground = np.divmod(numbers, len(GROUNDS))
    rest, relation = np.divmod(rest, 2)
    first, second = np.divmod(rest, OBJECTS)
    return first, second, relation, ground


def split(name: str) -> NDArray[np.int64]:
    """Return the numbers of the scenes of one of `SPLITS`, or of `training`."""
    start = 0
    for each, count in SPLITS.items():
        if each == name:
            return order()[start : start + count]
        start += count
    return order()[start:]


def gallery() -> NDArray[np.int64]:
    """Return the numbers of the scenes that are searched: those of the test split first, then 9000 of training's."""
    return np.concatenate([split("test"), split("training")[: GALLERY - SPLITS["test"]]])


def described(number: int, wording: int) -> str:
    """Describe a scene in one of its four wordings."""
    first, second, relation, ground = (int(part) for part in parts(np.array(number)))
    a, b = (f"{list(COLOURS)[one % len(COLOURS)]} {SHAPES[one // len(COLOURS)]}" for one in (first, second))
    text = " " + WORDINGS[relation][wording].format(a=a, b=b, on=list(GROUNDS)[ground])
    return text.replace(" a orange", " an orange")[1:]


def captions(numbers: NDArray[np.int64], seed: int) -> list[str]:
    """Describe each scene in a wording that is drawn."""
    wordings = RandomState(seed).randint(len(WORDINGS[0]), size=len(numbers))
    return [described(int(number), int(wording)) for number, wording in zip(numbers, wordings, strict=True)]


def rendered(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """Render each scene.

    Returns:
        Pixels [N, 48, 48, 3].
    """
    random = RandomState(seed)
    first, second, relation, ground = parts(numbers)
    colours = np.array(list(COLOURS.values()), dtype=np.float32)
    image = background(np.array(list(GROUNDS.values()), dtype=np.float32)[ground], random)
    for objects, along in ((first, 13.0), (second, 35.0)):
        centre = np.stack([np.full(len(numbers), along), np.full(len(numbers), SIDE / 2)], axis=1)
        centre = np.where((relation == 0)[:, None], centre, centre[:, ::-1])
        centre = centre + random.uniform(-3.0, 3.0, size=centre.shape)
        inside = covered(objects // len(COLOURS), centre, random)
        shade = colours[objects % len(COLOURS)] * random.uniform(0.85, 1.1, size=(len(numbers), 1))
        image = np.where(inside[..., None], shade[:, None, None].astype(np.float32), image)
    image += 6.0 * random.standard_normal(image.shape).astype(np.float32)
    return np.asarray(image.clip(0, 255), dtype=np.uint8)


def background(colour: NDArray[np.float32], random: RandomState) -> NDArray[np.float32]:
    """Lay out a ground of one colour each, with light that falls from a side and coarse grain: [N, 48, 48, 3]."""
    axis = np.linspace(-1.0, 1.0, SIDE, dtype=np.float32)
    slope = random.uniform(-0.12, 0.12, size=(2, len(colour), 1, 1)).astype(np.float32)
    light = 1.0 + slope[0] * axis[None, :, None] + slope[1] * axis[None, None, :]
    grain = random.standard_normal((len(colour), SIDE // 4, SIDE // 4)).astype(np.float32)
    light = light + 0.04 * grain.repeat(4, axis=1).repeat(4, axis=2)
    return np.asarray(light[..., None] * colour[:, None, None])


def covered(shapes: NDArray[np.int64], centre: NDArray[np.float64], random: RandomState) -> NDArray[np.bool_]:
    """Place a shape in each image, its size and angle drawn.

    Args:
        shapes: Index into `SHAPES` [N].
        centre: (x, y) in pixels [N, 2].
        random: Source of every draw.

    Returns:
        Mask [N, 48, 48].
    """
    count = len(shapes)
    radius = random.uniform(7.0, 10.0, size=count)
    angle = random.uniform(-0.25, 0.25, size=count)
    axis = np.arange(SIDE) + 0.5
    across = ((axis[None] - centre[:, :1]) / radius[:, None])[:, None, :].astype(np.float32)
    down = ((axis[None] - centre[:, 1:]) / radius[:, None])[:, :, None].astype(np.float32)
    cos, sin = (part(angle)[:, None, None].astype(np.float32) for part in (np.cos, np.sin))
    u, v = across * cos + down * sin, down * cos - across * sin
    mask = np.zeros((count, SIDE, SIDE), dtype=bool)
    for number, name in enumerate(SHAPES):
        rows = shapes == number
        mask[rows] = INSIDE[name](u[rows], v[rows])
    return mask


def in_star(u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell what is in a star of five points, one up, whose inner corners lie at 0.45."""
    fifth = np.pi / 5
    off = np.abs((np.arctan2(u, -v) + fifth) % (2 * fifth) - fifth)
    edge = 0.45 * np.sin(fifth) / (0.45 * np.sin(fifth - off) + np.sin(off))
    return np.asarray(np.hypot(u, v) <= 1.1 * edge)


#: What is inside each shape, of (u, v), right and down from its centre, about -1 to 1.
INSIDE = {
    "circle": lambda u, v: u * u + v * v <= 0.85,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.8,
    "triangle": lambda u, v: (v <= 0.8) & (abs(u) <= 0.55 * (v + 1.0)),
    "star": in_star,
    "heart": lambda u, v: (1.44 * u * u + (0.15 - 1.2 * v) ** 2 - 1.0) ** 3 <= 1.44 * u * u * (0.15 - 1.2 * v) ** 3,
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= 0.32) & (np.maximum(abs(u), abs(v)) <= 0.95),
}


def samples(numbers: NDArray[np.int64], seed: int) -> Iterator[Sample]:
    """Yield each scene's image and caption as the feed of one request; the label is the scene's number."""
    for number, image, caption in zip(numbers, rendered(numbers, seed), captions(numbers, seed), strict=True):
        yield {"image": image, "caption": caption}, int(number)


def calibration() -> Iterator[Sample]:
    """Yield 256 pairs."""
    return samples(split("calibration"), seed=2)


def validation() -> Iterator[Sample]:
    """Yield 1000 pairs for choosing between models."""
    return samples(split("validation"), seed=3)


def evaluation() -> Iterator[Sample]:
    """Yield 1000 pairs of scenes that were not trained on."""
    return samples(split("test"), seed=4)


def a_few() -> Iterator[Sample]:
    """Yield 64 pairs of the test split, for a quick look."""
    return samples(split("test")[:64], seed=4)


def training(epoch: int = 0) -> Iterator[Sample]:
    """Yield 4096 pairs, others in each epoch, for passes that train."""
    chosen = RandomState(5000 + epoch).choice(split("training"), size=4096, replace=False)
    return samples(chosen, seed=6000 + epoch)
