"""Posts of a marketplace: a text and a picture. Whether a post may stay is told by both together, by neither alone.

Needs NumPy; what gives files also Pillow. Every draw is from a seeded `RandomState`, whose stream NumPy froze (NEP 19).

A picture of a blade is fine in the news, doubtful in a chat and harmful in an offer; an insult is doubtful under any
picture, and harmful under a blade. One text in eight says nothing of its topic, and one picture in eight is hardly to
be seen: nobody could tell these.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

VERDICTS = ("fine", "doubtful", "harmful")
TOPICS = ("offer", "chat", "news", "insult")
#: What a post is, by its topic (row) and whether its picture shows something restricted (column).
TABLE = np.array([(0, 2), (0, 1), (0, 0), (1, 2)])
OPEN_SHARE, HIDDEN_SHARE = 0.12, 0.12
SEEDS = {"train": 21, "validation": 22, "calibration": 23, "test": 24}
SIDE = 32

BEGINNINGS = (
    ("for sale", "selling", "take it for ten", "cheap today", "offer of the week", "last one left", "get yours"),
    ("look at this", "found this", "what do you think", "my uncle has one", "guess where i saw it", "so i was told"),
    ("the museum shows", "the police report", "a study finds", "the court said today", "the paper writes about"),
    ("you are a fool", "nobody wants you here", "shut up", "what an idiot", "go away loser", "you make me sick"),
)
OPEN_BEGINNINGS = ("here it is", "again", "just this", "see below", "no comment", "well well")
ENDINGS = ("write to me", "near the station", "in good shape", "as always", "on monday", "honestly", "for real",
           "in the old town", "with the box", "more tomorrow")  # fmt: skip

Sample = tuple[dict[str, object], int]


class Posts(NamedTuple):
    """N posts."""

    texts: list[str]
    pictures: NDArray[np.uint8]  # [N, 32, 32, 3]
    labels: NDArray[np.int64]  # [N], index of VERDICTS


def posts(split: str, count: int) -> Posts:
    """Make posts; about half are fine.

    Args:
        split: One of `SEEDS`.
        count: Number of posts.
    """
    random = RandomState(SEEDS[split])
    topics, restricted = random.randint(len(TOPICS), size=count), random.random_sample(count) < 0.55
    texts = [text(topic, random) for topic in topics]
    drawn = np.stack([picture(bool(one), random) for one in restricted])
    return Posts(texts, drawn, TABLE[topics, restricted.astype(int)].astype(np.int64))


def text(topic: int, random: RandomState) -> str:
    """Write a beginning that tells the topic, or an open one, and one or two endings that tell nothing."""
    beginnings = OPEN_BEGINNINGS if random.random_sample() < OPEN_SHARE else BEGINNINGS[topic]
    told = [ENDINGS[one] for one in random.permutation(len(ENDINGS))[: random.randint(1, 3)]]
    return " ".join([beginnings[random.randint(len(beginnings))], *told])


def picture(restricted: bool, random: RandomState) -> NDArray[np.uint8]:
    """Draw a thing in front of clutter: a blade or a bottle is restricted, a ball or a box is not.

    Returns:
        Pixels [32, 32, 3].
    """
    across, down = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    turned, x, y = random.uniform(-0.8, 0.8), *random.uniform(-0.3, 0.3, 2)
    along = (across - x) * np.cos(turned) + (down - y) * np.sin(turned)
    beside = (down - y) * np.cos(turned) - (across - x) * np.sin(turned)
    second = random.random_sample() < 0.5
    if restricted:
        blade = (np.abs(along) < 0.65) & (np.abs(beside) < 0.16 * (0.65 - along))
        bottle = ((np.abs(beside) < 0.24) & (np.abs(along + 0.15) < 0.4)) | (
            (np.abs(beside) < 0.09) & (along > 0.2) & (along < 0.65)
        )
        thing = bottle if second else blade
    else:
        ball = along**2 + beside**2 < 0.38**2
        thing = (np.abs(along) < 0.4) & (np.abs(beside) < 0.3) if second else ball
    back, front = random.uniform(0.6, 0.95, 3), random.uniform(0.0, 0.4, 3)
    hidden = random.random_sample() < HIDDEN_SHARE
    contrast = random.uniform(0.02, 0.1) if hidden else 1.0
    front = back + contrast * (front - back)
    light = np.where(thing[..., None], front, back)
    left, top = random.randint(0, SIDE - 8, 2)
    light[top : top + random.randint(2, 7), left : left + random.randint(2, 7)] = random.uniform(0, 1, 3)
    light = light + random.uniform(0.02, 0.08) * random.standard_normal(light.shape)
    return np.asarray(np.rint(light.clip(0, 1) * 255), dtype=np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Write pixels as a PNG file, which keeps them as they are."""
    from PIL import Image

    with io.BytesIO() as stream:
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()


def samples(made: Posts) -> Iterator[Sample]:
    """Yield what a client sends of each post, with the verdict."""
    for words, pixels, label in zip(*made, strict=True):
        yield {"text": words, "picture": png(pixels)}, int(label)


def calibration() -> Iterator[Sample]:
    """Yield 256 posts that were not trained on."""
    return samples(posts("calibration", 256))


def evaluation() -> Iterator[Sample]:
    """Yield 1200 posts of the test split."""
    return samples(posts("test", 1200))


def calibration_small() -> Iterator[Sample]:
    """Yield 32 posts, for a small build."""
    return samples(posts("calibration", 32))


def evaluation_small() -> Iterator[Sample]:
    """Yield 150 posts of the test split, for a small build."""
    return samples(posts("test", 150))
