"""Draw clips.png: a clip of each action, as the network sees it.

    python recipes/moving_digits/picture.py

Needs Pillow. The clips are the first of each action in the test split whose digit is another one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import ACTIONS, mp4, scenes
from PIL import Image, ImageDraw

from mmdeploy.preprocess import SampleFrames

FRAMES, SHOWN, COLUMN, ROW = 8, 48, 430, 76


def main() -> None:
    """Write the picture beside this file."""
    made, step = scenes("test", 80), SampleFrames(size=(32, 32), frames=FRAMES, layout="THWC")
    sheet = Image.new("L", (2 * COLUMN, ROW * len(ACTIONS) // 2 + 6), 255)
    drawing, shown = ImageDraw.Draw(sheet), set[int]()
    for action, name in enumerate(ACTIONS):
        rows = [row for row in np.flatnonzero(made.actions == action) if made.digits[row] not in shown]
        row = int(rows[0])
        shown.add(int(made.digits[row]))
        left, top = 10 + action % 2 * COLUMN, 6 + action // 2 * ROW
        drawing.text((left, top), f"{made.digits[row]}: {name}, {len(made.films[row])} frames", fill=0)
        frames = step.row({"data": mp4(made.films[row])})["frames"][..., 0]
        for place, frame in enumerate(frames):
            small = Image.fromarray(frame).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
            sheet.paste(small, (left + place * (SHOWN + 2), top + 16))
    sheet.quantize(16).save(Path(__file__).with_name("clips.png"), optimize=True)


if __name__ == "__main__":
    main()
