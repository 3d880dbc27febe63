"""Draw pairs.png: images and recordings as the network is given them, some of them badly damaged.

    python recipes/spoken_digits/picture.py

Needs Pillow. The pairs are the first of each digit in the test split; of a recording the log-mel spectrogram is drawn,
as the first layer of the audio encoder makes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from data import CLASSES, pairs
from model import LogMelSpectrogram
from PIL import Image, ImageDraw

SIDE, WIDE, COLUMN, ROW = 72, 110, 205, 96


def main() -> None:
    """Write the picture beside this file."""
    images, waveforms, labels = pairs("test", 100, seed=3)
    with torch.inference_mode():
        bands = LogMelSpectrogram()(torch.from_numpy(waveforms)).numpy()
    sheet = Image.new("L", (COLUMN * CLASSES // 2, 2 * ROW), 255)
    drawing = ImageDraw.Draw(sheet)
    for digit in range(CLASSES):
        row = int(np.flatnonzero(labels == digit)[0])
        left, top = 8 + digit % 5 * COLUMN, 4 + digit // 5 * ROW
        drawing.text((left, top), str(digit), fill=0)
        sheet.paste(Image.fromarray(255 - images[row]).resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top + 14))
        heard = np.interp(bands[row].T[::-1], (-2.5, 2.5), (255, 0)).astype(np.uint8)  # low tones below, loud is dark
        spot = (left + SIDE + 6, top + 14)
        sheet.paste(Image.fromarray(heard).resize((WIDE, SIDE), Image.Resampling.BILINEAR), spot)
    sheet.quantize(32).save(Path(__file__).with_name("pairs.png"), optimize=True)


if __name__ == "__main__":
    main()
