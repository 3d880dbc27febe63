"""Draw tickets.png: a ticket of each intent.

    python recipes/support_desk/picture.py

Needs Pillow. The tickets are the first two of each intent in the test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import INTENTS, SENTIMENTS, URGENCIES, tickets
from PIL import Image, ImageDraw
from routing import QUEUES, route_of

COLUMN, ROW = 230, 150


def main() -> None:
    """Write the picture beside this file."""
    made = tickets("test", 60)
    sheet = Image.new("RGB", (COLUMN * len(INTENTS), 2 * ROW), "white")
    drawing = ImageDraw.Draw(sheet)
    for intent, name in enumerate(INTENTS):
        for place, row in enumerate(np.flatnonzero(made.labels[:, 0] == intent)[:2]):
            left, top = 10 + intent * COLUMN, 6 + place * ROW
            shown = Image.fromarray(made.screenshots[row]).resize((96, 72), Image.Resampling.NEAREST)
            sheet.paste(shown, (left, top))
            _, sentiment, urgency = (int(one) for one in made.labels[row])
            told = (name, SENTIMENTS[sentiment], URGENCIES[urgency], "", QUEUES[route_of(intent, sentiment, urgency)])
            for line, one in enumerate(told):
                drawing.text((left + 104, top + 14 * line), one, fill="black")
            words = made.texts[row].split()
            for line in range(0, len(words), 6):
                drawing.text((left, top + 78 + line * 2), " ".join(words[line : line + 6]), fill="black")
    sheet.quantize(64).save(Path(__file__).with_name("tickets.png"), optimize=True)


if __name__ == "__main__":
    main()
