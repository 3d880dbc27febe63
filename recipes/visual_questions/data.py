"""Sort-of-CLEVR: six objects of six colours, and questions about them in plain English.

Scenes and questions follow the rules of Sort-of-CLEVR (Santoro et al., 2017, "A simple neural network module for
relational reasoning", arXiv:1706.01427) as the generator at github.com/kimhc6028/relational-networks has them, in code
of its own, with two differences: questions are sentences in one of several wordings, not codes; and an object is never
taken for its own neighbour (there its distance to itself counts as 999 squared pixels, and some are further).

An image is 75 x 75 pixels on white. Each colour has one object, a square or a circle of 11 pixels, its centre no nearer
than 10 pixels to another. Each image is asked 10 questions about one object alone (its shape, whether it is left,
whether it is up) and 10 about how objects relate (the shape of the nearest, of the furthest, how many others have its
shape).

Needs NumPy only. Everything is drawn from a seeded `RandomState`, whose stream NumPy froze (NEP 19).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

SIDE = 75
RADIUS = 5
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}
ANSWERS = ("yes", "no", "square", "circle", "0", "1", "2", "3", "4", "5")
KINDS = ("shape", "left", "top", "nearest", "furthest", "count")  # three about one object, three relational
RELATIONAL = 3  # kinds from here on are relational
COUNT = 5
WORDINGS = (
    ("what shape is the {} object?", "is the {} thing a square or a circle?", "what is the shape of the {} one?"),
    ("is the {} object on the left?", "is the {} thing in the left half?", "does the {} one lie on the left side?"),
    ("is the {} object at the top?", "is the {} thing in the upper half?", "does the {} one lie in the top half?"),
    (
        "what shape is the object nearest to the {} one?",
        "which shape has the thing closest to the {} object?",
        "what is the shape of the nearest neighbour of the {} thing?",
    ),
    (
        "what shape is the object furthest from the {} one?",
        "which shape has the thing that is farthest away from the {} object?",
        "what is the shape of whatever lies the furthest from the {} thing?",
    ),
    (
        "how many other objects have the shape of the {} one?",
        "how many things are of the same shape as the {} object?",
        "what is the number of objects shaped like the {} thing?",
    ),
)
QUESTIONS_OF_A_KIND = len(COLOURS) * len(WORDINGS[0])
QUESTIONS_PER_IMAGE = 20
SPLITS = {"calibration": (256, 2), "validation": (100, 3), "test": (200, 4)}  # images, seed

Sample = tuple[dict[str, object], dict[str, int]]


class Scenes(NamedTuple):
    """N images and 20 questions about each; the first ten are not relational."""

    images: NDArray[np.uint8]  # [N, 75, 75, 3]
    questions: NDArray[np.int64]  # [N, 20], index into `sentences()`
    answers: NDArray[np.int64]  # [N, 20], index into `ANSWERS`
    looks: NDArray[np.int64]  # [N, 20, 2, 2], (x, y) of the object asked about, and of the one whose shape is wanted


def sentences() -> list[str]:
    """Return every question that can be asked: kind by kind, colour by colour, wording by wording."""
    return [wording.format(colour) for kind in WORDINGS for colour in COLOURS for wording in kind]


def kind_of(questions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index into `KINDS` of questions, in any shape."""
    return questions // QUESTIONS_OF_A_KIND


def scenes(count: int, seed: int) -> Scenes:
    """Draw images, and ask about them.

    Args:
        count: Images.
        seed: Fixes every draw.
    """
    random = RandomState(seed)
    centres = placed(count, random)
    circles = random.randint(2, size=(count, len(COLOURS))).astype(bool)
    colours = random.randint(len(COLOURS), size=(count, QUESTIONS_PER_IMAGE))
    kinds = random.randint(RELATIONAL, size=colours.shape)
    kinds[:, QUESTIONS_PER_IMAGE // 2 :] += RELATIONAL
    wordings = random.randint(len(WORDINGS[0]), size=colours.shape)
    questions = (kinds * len(COLOURS) + colours) * len(WORDINGS[0]) + wordings
    rows = np.arange(count)[:, None]
    right = answers(centres, circles)[rows, kinds, colours]
    wanted = neighbours(centres)[rows, kinds % RELATIONAL, colours]
    wanted = np.where((kinds >= RELATIONAL) & (kinds < COUNT), wanted, colours)
    looks = np.stack([centres[rows, colours], centres[rows, wanted]], axis=2)
    return Scenes(drawn(centres, circles), questions, right, looks)


def placed(count: int, random: RandomState) -> NDArray[np.int64]:
    """Place objects one after the other, each again until it is far enough from those before.

    Returns:
        Centres (x, y) in pixels [N, 6, 2], 5 to 69.
    """
    centres = np.zeros((count, len(COLOURS), 2), dtype=np.int64)
    for number in range(len(COLOURS)):
        left = np.arange(count)
        while len(left):
            tried = random.randint(RADIUS, SIDE - RADIUS, size=(len(left), 2))
            away = ((tried[:, None] - centres[left, :number]) ** 2).sum(axis=2)
            far = (away >= (2 * RADIUS) ** 2).all(axis=1)
            centres[left[far], number] = tried[far]
            left = left[~far]
    return centres


def drawn(centres: NDArray[np.int64], circles: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw objects [N, 6, 2] on white, colour by colour.

    Returns:
        Pixels [N, 75, 75, 3].
    """
    images = np.full((len(centres), SIDE, SIDE, 3), 255, dtype=np.uint8)
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    disc = x**2 + y**2 <= RADIUS**2
    for number, colour in enumerate(COLOURS.values()):
        row, tall, wide = np.nonzero(disc | ~circles[:, number, None, None])
        images[row, centres[row, number, 1] + tall - RADIUS, centres[row, number, 0] + wide - RADIUS] = colour
    return images


def neighbours(centres: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which object is nearest to each, which furthest, and itself: [N, 3, 6]."""
    away = ((centres[:, :, None] - centres[:, None]) ** 2).sum(axis=3)
    others = away + np.where(np.eye(len(COLOURS), dtype=bool), SIDE**3, 0)
    itself = np.broadcast_to(np.arange(len(COLOURS)), away.shape[:2])
    return np.stack([others.argmin(axis=2), away.argmax(axis=2), itself], axis=1)


def answers(centres: NDArray[np.int64], circles: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Answer every kind of question about every object.

    Returns:
        Index into `ANSWERS` [N, kinds, colours].
    """
    nearest, furthest = neighbours(centres)[:, 0], neighbours(centres)[:, 1]
    shape = np.where(circles, ANSWERS.index("circle"), ANSWERS.index("square"))
    same = (circles[:, :, None] == circles[:, None]).sum(axis=2) - 1
    return np.stack(
        [
            shape,
            np.where(centres[..., 0] < SIDE / 2, 0, 1),
            np.where(centres[..., 1] < SIDE / 2, 0, 1),
            np.take_along_axis(shape, nearest, axis=1),
            np.take_along_axis(shape, furthest, axis=1),
            ANSWERS.index("0") + same,
        ],
        axis=1,
    )


def samples(drawn_scenes: Scenes) -> Iterator[Sample]:
    """Yield each question with its image as a request's feed (no batch axis), the answer's class, and its group."""
    text = sentences()
    for image, questions, right, _ in zip(*drawn_scenes, strict=True):
        for question, answer in zip(questions, right, strict=True):
            relational = int(kind_of(question) >= RELATIONAL)
            yield {"image": image, "question": text[question]}, {"answer": int(answer), "relational": relational}


def split(name: str) -> Scenes:
    """Return the scenes of one of `SPLITS`."""
    return scenes(*SPLITS[name])


def calibration() -> Iterator[Sample]:
    """Yield a question each about 256 images."""
    for number, (image, *asked) in enumerate(zip(*split("calibration"), strict=True)):
        which = slice(number % QUESTIONS_PER_IMAGE, number % QUESTIONS_PER_IMAGE + 1)
        yield from samples(Scenes(image[None], *(part[None, which] for part in asked)))


def validation() -> Iterator[Sample]:
    """Yield 2000 questions about 100 images, for choosing between models."""
    return samples(split("validation"))


def evaluation() -> Iterator[Sample]:
    """Yield 4000 questions about 200 images."""
    return samples(split("test"))


def a_few() -> Iterator[Sample]:
    """Yield 400 questions about 20 images of the test split, for a quick look."""
    return samples(Scenes(*(array[:20] for array in split("test"))))


def training(epoch: int = 0) -> Iterator[Sample]:
    """Yield 4000 questions about 200 images, others in each epoch, for passes that train."""
    return samples(scenes(200, seed=100_000 + epoch))
