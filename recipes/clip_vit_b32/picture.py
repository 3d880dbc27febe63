"""Draw shapes.png: pictures that the small checkpoint is asked about, each with its texts; the one that fits is marked.

    python recipes/clip_vit_b32/picture.py

Needs Pillow. The upper row is filled shapes, which the checkpoint was trained on, the lower one outlines, which the
adapter learned; both are of the samples that a build of a variant is judged on.
"""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

from data import evaluation_outlines, evaluation_small
from PIL import Image, ImageDraw

COLUMNS, SIDE, COLUMN, ROW, LINE = 4, 96, 215, 112, 12


def main() -> None:
    """Write the picture beside this file."""
    sheet = Image.new("RGB", (COLUMNS * COLUMN, 2 * ROW), "white")
    drawing = ImageDraw.Draw(sheet)
    for row, samples in enumerate((evaluation_small(), evaluation_outlines())):
        for column, (feed, right) in enumerate(islice(samples, 2, None, 13)):
            if column == COLUMNS:
                break
            left, top = 6 + column * COLUMN, 8 + row * ROW
            picture = Image.open(io.BytesIO(bytes(feed["image"]))).convert("RGB")  # type: ignore[call-overload]
            picture.thumbnail((SIDE, SIDE))
            sheet.paste(picture, (left, top))
            for place, text in enumerate(feed["labels"]):  # type: ignore[arg-type, var-annotated]
                words, ink = text.removeprefix("a photo of a "), "black" if place == right else "gray"
                mark = "> " if place == right else "  "
                drawing.text((left + SIDE + 4, top + place * LINE), mark + words, fill=ink)
    sheet.quantize(64).save(Path(__file__).with_name("shapes.png"), optimize=True)


if __name__ == "__main__":
    main()
