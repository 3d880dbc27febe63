"""Draw people.png: one person in each mood, what they write, how they sound, how their face moves.

    python recipes/moods/picture.py

Needs Pillow. The people are the first of each mood in the test split who write more than 40 letters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import MOODS, People, people
from PIL import Image, ImageDraw

COLUMN, FACE, SHOWN_FRAMES = 190, 60, (0, 2, 4)
HEIGHT = 180


def column(drawing: ImageDraw.ImageDraw, sheet: Image.Image, made: People, row: int, left: int) -> None:
    """Draw one person at a horizontal place."""
    drawing.text((left, 6), MOODS[made.labels[row]], fill=0)
    for place, frame in enumerate(SHOWN_FRAMES):
        face = Image.fromarray(made.videos[row, frame]).resize((FACE - 2, FACE - 2), Image.Resampling.BICUBIC)
        sheet.paste(face, (left + place * FACE, 22))
    sound = made.sounds[row]
    pieces = np.array_split(sound, 3 * FACE * len(sound) // 12000)
    for step, piece in enumerate(pieces):
        high, low = (round(110 - 90 * float(end)) for end in (piece.max(), piece.min()))
        drawing.line((left + step, max(high, 86), left + step, min(low, 134)), fill=90)
    words, line, top = made.texts[row].split(), "", 142
    for word in [*words, ""]:
        if len(line) + len(word) > 27 or not word:
            drawing.text((left, top), line, fill=0)
            line, top = "", top + 12
        line = f"{line} {word}".strip()


def main() -> None:
    """Write the picture beside this file."""
    made = people("test", 1000)
    sheet = Image.new("L", (COLUMN * len(MOODS) + 10, HEIGHT), 255)
    drawing = ImageDraw.Draw(sheet)
    for mood in range(len(MOODS)):
        row = next(row for row in np.flatnonzero(made.labels == mood) if len(made.texts[row]) > 40)
        column(drawing, sheet, made, int(row), 10 + mood * COLUMN)
    sheet.quantize(32).save(Path(__file__).with_name("people.png"), optimize=True)


if __name__ == "__main__":
    main()
