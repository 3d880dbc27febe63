"""Tickets of a help desk: what somebody writes, and a screenshot that may be missing; three things are asked of each.

Needs NumPy; what gives files also Pillow. Every draw is from a seeded `RandomState`, whose stream NumPy froze (NEP 19).

What a ticket is about is told by its words, but three in ten name only the program, and then the screenshot tells: an
error, a form to sign in, a bill or a page. How urgent it is, is told by words in six of ten, and by a red bar that the
program shows while it is down. The tone is in the words alone, and one ticket in ten has another one than it seems.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from routing import route_of

INTENTS = ("billing", "bug", "access", "question")
SENTIMENTS = ("unhappy", "neutral", "pleased")
URGENCIES = ("low", "normal", "high")
OPEN_SHARE = {"intent": 0.3, "sentiment": 0.1, "urgency": 0.4}
SEEDS = {"train": 31, "validation": 32, "calibration": 33, "test": 34}
HEIGHT, WIDTH = 24, 32

ABOUT = (
    ("the invoice is wrong", "i was charged twice", "please refund the last payment", "the bill has another address"),
    ("the export crashes", "it stops with an error", "the button does nothing", "the report shows wrong numbers"),
    ("i can not sign in", "my password is not taken", "the account is locked", "the code never arrives"),
    ("how do i add a user", "where is the manual", "can it read tables", "what does the plan include"),
)
OPEN_ABOUT = ("it is about the program", "see what i see", "it does this since monday", "please look at the picture")
TONES = (
    ("this is unacceptable", "i am fed up", "third time this week", "nobody ever helps"),
    ("hello", "good morning", "a note from our office", "as discussed"),
    ("thank you for the great work", "we love the new version", "you were so kind last time", "all else is perfect"),
)
TIMES = (
    ("no hurry", "whenever you have time", "next month is fine"),
    ("this week please", "by friday would be good", "when can i expect it"),
    ("we can not work", "all of us are waiting", "the deadline is today"),
)

Sample = tuple[dict[str, object], dict[str, int]]


class Tickets(NamedTuple):
    """N tickets."""

    texts: list[str]
    screenshots: NDArray[np.uint8]  # [N, 24, 32, 3]
    labels: NDArray[np.int64]  # [N, 3]: intent, sentiment, urgency


def tickets(split: str, count: int) -> Tickets:
    """Make tickets.

    Args:
        split: One of `SEEDS`.
        count: Number of tickets.
    """
    random = RandomState(SEEDS[split])
    labels = np.stack([random.randint(number, size=count) for number in (4, 3, 3)], axis=1).astype(np.int64)
    texts = [text(*row, random) for row in labels]
    return Tickets(texts, np.stack([screenshot(row[0], row[2], random) for row in labels]), labels)


def text(intent: int, sentiment: int, urgency: int, random: RandomState) -> str:
    """Write what it is about, in some tone, and perhaps by when."""
    about = OPEN_ABOUT if random.random_sample() < OPEN_SHARE["intent"] else ABOUT[intent]
    tone = TONES[random.randint(3) if random.random_sample() < OPEN_SHARE["sentiment"] else sentiment]
    parts = [tone[random.randint(len(tone))], about[random.randint(len(about))]]
    if random.random_sample() >= OPEN_SHARE["urgency"]:
        parts.append(TIMES[urgency][random.randint(3)])
    return " ".join(parts)


def screenshot(intent: int, urgency: int, random: RandomState) -> NDArray[np.uint8]:
    """Draw a window: a bill's columns, an error's cross, a form's two fields, or the lines of a page.

    Returns:
        Pixels [24, 32, 3].
    """
    back, ink = random.uniform(0.75, 1.0, 3), random.uniform(0.0, 0.4, 3)
    light = np.tile(back, (HEIGHT, WIDTH, 1))
    top, left = random.randint(5, 8), random.randint(3, 8)
    drawn = INTENTS[intent] if random.random_sample() > 0.06 else INTENTS[random.randint(4)]
    if drawn == "billing":
        for row in range(top, HEIGHT - 3, 3):
            light[row, left : left + 10] = ink
            light[row, left + 14 : left + 18] = ink
    elif drawn == "bug":
        for step in range(10):
            light[top + step : top + step + 2, left + step : left + step + 2] = (0.8, 0.1, 0.1)
            light[top + step : top + step + 2, left + 9 - step : left + 11 - step] = (0.8, 0.1, 0.1)
    elif drawn == "access":
        for row in (top, top + 7):
            light[row : row + 5, left : left + 18] = ink
            light[row + 1 : row + 4, left + 1 : left + 17] = back
    else:
        for row in range(top, HEIGHT - 3, 2):
            light[row, left : left + random.randint(12, 22)] = ink
    down = (0.03, 0.15, 0.8)[urgency]
    light[:3] = (0.85, 0.15, 0.15) if random.random_sample() < down else random.uniform(0.3, 0.7) * np.ones(3)
    light = light + random.uniform(0.02, 0.12) * random.standard_normal(light.shape)
    return np.asarray(np.rint(light.clip(0, 1) * 255), dtype=np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Write pixels as a PNG file, which keeps them as they are."""
    from PIL import Image

    with io.BytesIO() as stream:
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()


def samples(made: Tickets) -> Iterator[Sample]:
    """Yield what a client sends of each ticket, with its labels, and the queue that these ask for."""
    for words, pixels, row in zip(*made, strict=True):
        intent, sentiment, urgency = (int(one) for one in row)
        labels = {"intent": intent, "sentiment": sentiment, "urgency": urgency}
        yield {"text": words, "screenshot": png(pixels)}, labels | {"queue": route_of(**labels)}


def calibration() -> Iterator[Sample]:
    """Yield 256 tickets that were not trained on."""
    return samples(tickets("calibration", 256))


def evaluation() -> Iterator[Sample]:
    """Yield 1000 tickets of the test split."""
    return samples(tickets("test", 1000))


def calibration_small() -> Iterator[Sample]:
    """Yield 32 tickets, for a small build."""
    return samples(tickets("calibration", 32))


def evaluation_small() -> Iterator[Sample]:
    """Yield 120 tickets of the test split, for a small build."""
    return samples(tickets("test", 120))
