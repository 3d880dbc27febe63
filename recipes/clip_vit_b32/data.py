"""Pictures and the texts that may describe them: your photos, or drawn shapes where there are none.

Put photos into folders that are named by what they show, `photos/a tabby cat/1.jpg`. Every second one calibrates, the
others judge, and each is asked with all the names. Without that folder pictures are drawn, by a seeded `RandomState`,
whose stream NumPy froze (NEP 19): one of 6 shapes in one of 8 colours, filled, or as an outline on paper.

A sample is what clients send: the bytes of a file and a list of texts; its label is the text that fits.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

from numpy.random import RandomState
from PIL import Image, ImageDraw

PHOTOS = Path(__file__).with_name("photos")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
PROMPT = "a photo of a {}"
COLOURS = {
    "red": (220, 30, 30), "orange": (250, 140, 20), "yellow": (245, 225, 60), "green": (30, 150, 50),
    "blue": (40, 60, 220), "purple": (130, 40, 160), "pink": (250, 150, 190), "black": (15, 15, 15),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
CLASSES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
#: Not one of them is in what `make_checkpoint.py` trains on: each colour and each shape is, in other pairs.
UNSEEN = tuple(f"{list(COLOURS)[(3 * number + 1) % len(COLOURS)]} {shape}" for number, shape in enumerate(SHAPES))
CANDIDATES = 8  # texts that each drawn picture is asked with
SPLITS = {"training": 1, "validation": 2, "calibration": 3, "evaluation": 4}  # seeds

Sample = tuple[dict[str, object], int]


def drawn(name: str, random: RandomState, *, outline: bool = False) -> bytes:
    """Draw one of `CLASSES`, its place, size, angle and ground drawn: a JPEG or PNG of 70 to 140 pixels a side."""
    colour, shape = name.split()
    width, height = (int(side) for side in random.randint(70, 141, size=2))
    paper = tuple(int(one) for one in (random.randint(225, 256, 3) if outline else random.randint(100, 230, 3)))
    picture = Image.new("RGB", (width, height), paper)
    radius = min(width, height) * random.uniform(0.25, 0.36)
    angle = random.uniform(-0.3, 0.3)
    middle = [side / 2 + random.uniform(-0.07, 0.07) * side for side in (width, height)]
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [
        (middle[0] + radius * (u * cos - v * sin), middle[1] + radius * (u * sin + v * cos)) for u, v in around(shape)
    ]
    ink = tuple(int(min(255, one * random.uniform(0.85, 1.1))) for one in COLOURS[colour])
    drawing = ImageDraw.Draw(picture)
    if outline:
        drawing.line([*corners, *corners[:2]], fill=ink, width=int(random.randint(2, 5)), joint="curve")
    else:
        drawing.polygon(corners, fill=ink)
    written = io.BytesIO()
    picture.save(written, format=("JPEG", "PNG")[random.randint(2)], quality=90)
    return written.getvalue()


def around(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape, (right, down) from its centre, about -1 to 1."""
    match shape:
        case "circle":
            return [(math.cos(turn * math.tau / 48), math.sin(turn * math.tau / 48)) for turn in range(48)]
        case "square":
            return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
        case "triangle":
            return [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)]
        case "star":
            turns = [math.tau * (number / 10 - 0.25) for number in range(10)]
            long = [(1.1, 0.45)[number % 2] for number in range(10)]
            return [(size * math.cos(turn), size * math.sin(turn)) for size, turn in zip(long, turns, strict=True)]
        case "heart":
            turns = [math.tau * number / 48 for number in range(48)]
            return [
                (math.sin(turn) ** 3, -(13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn)
                                        - math.cos(4 * turn)) / 16)
                for turn in turns
            ]  # fmt: skip
    arm = 0.34
    return [
        (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm), (arm, 1), (-arm, 1), (-arm, arm),
        (-1, arm), (-1, -arm), (-arm, -arm),
    ]  # fmt: skip


def asked(name: str, random: RandomState) -> tuple[list[str], int]:
    """Return the texts that a picture is asked with, half of them right in the colour or the shape, and its own's."""
    colour, shape = name.split()
    near = [one for one in CLASSES if one != name and {colour, shape} & {*one.split()}]
    far = [one for one in CLASSES if one != name and one not in near]
    half = CANDIDATES // 2
    others = [*random.choice(near, half, replace=False), *random.choice(far, CANDIDATES - half - 1, replace=False)]
    texts = [str(one) for one in random.permutation([name, *others])]
    return [PROMPT.format(one) for one in texts], texts.index(name)


def samples(split: str, count: int, *, outline: bool = False, classes: tuple[str, ...] = CLASSES) -> Iterator[Sample]:
    """Yield drawn pictures, the classes in turn, each with the texts that it is asked with."""
    random = RandomState(SPLITS[split] + 100 * outline)
    for number in range(count):
        name = classes[number % len(classes)]
        texts, right = asked(name, random)
        yield {"image": drawn(name, random, outline=outline), "labels": texts}, right


def photos(odd: bool) -> Iterator[Sample]:
    """Yield every second of your photos, with the names of all folders.

    Raises:
        ValueError: If there are not at least two folders with photos.
    """
    names = sorted(folder.name for folder in PHOTOS.iterdir() if folder.is_dir())
    if len(names) < 2:
        raise ValueError(f"{PHOTOS} has {len(names)} folders: put photos into two or more, named by what they show")
    for right, name in enumerate(names):
        files = sorted(file for file in (PHOTOS / name).iterdir() if file.suffix.lower() in ENDINGS)
        for file in files[odd::2]:
            yield {"image": file.read_bytes(), "labels": [PROMPT.format(one) for one in names]}, right


def calibration() -> Iterator[Sample]:
    """Yield every second photo, or 64 drawn pictures."""
    return photos(odd=False) if PHOTOS.is_dir() else samples("calibration", 64)


def evaluation() -> Iterator[Sample]:
    """Yield the other photos, or 192 drawn pictures."""
    return photos(odd=True) if PHOTOS.is_dir() else samples("evaluation", 192)


def calibration_small() -> Iterator[Sample]:
    """Yield 32 drawn pictures."""
    return samples("calibration", 32)


def evaluation_small() -> Iterator[Sample]:
    """Yield 192 drawn pictures."""
    return samples("evaluation", 192)


def calibration_outlines() -> Iterator[Sample]:
    """Yield 32 outlines."""
    return samples("calibration", 32, outline=True)


def evaluation_outlines() -> Iterator[Sample]:
    """Yield 192 outlines."""
    return samples("evaluation", 192, outline=True)


def a_few() -> Iterator[Sample]:
    """Yield 24 outlines."""
    return samples("validation", 24, outline=True)
