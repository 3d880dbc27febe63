"""Draw posts.png: posts that are fine, doubtful and harmful.

    python recipes/moderation/picture.py

Needs Pillow. The posts are the first three of each kind in the test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import VERDICTS, posts
from PIL import Image, ImageDraw

SIDE, COLUMN, ROW = 64, 290, 70


def main() -> None:
    """Write the picture beside this file."""
    made = posts("test", 100)
    sheet = Image.new("RGB", (COLUMN * len(VERDICTS), 24 + 3 * ROW), "white")
    drawing = ImageDraw.Draw(sheet)
    for kind, name in enumerate(VERDICTS):
        drawing.text((10 + kind * COLUMN, 6), name, fill="black")
        for place, row in enumerate(np.flatnonzero(made.labels == kind)[:3]):
            left, top = 10 + kind * COLUMN, 24 + place * ROW
            sheet.paste(Image.fromarray(made.pictures[row]).resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
            words = made.texts[row].split()
            for line in range(0, len(words), 5):
                drawing.text((left + SIDE + 8, top + 4 + line * 3), " ".join(words[line : line + 5]), fill="black")
    sheet.quantize(64).save(Path(__file__).with_name("posts.png"), optimize=True)


if __name__ == "__main__":
    main()
