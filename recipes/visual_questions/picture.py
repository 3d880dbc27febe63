"""Write `picture.png`: four images of the test split, side by side.

python recipes/visual_questions/picture.py    # needs Pillow
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import split
from PIL import Image


def main() -> None:
    """Write the picture beside this file."""
    images = [np.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=200) for image in split("test").images[:4]]
    wide = Image.fromarray(np.concatenate(images, axis=1)).quantize(16)
    wide.resize((wide.width * 3, wide.height * 3), Image.Resampling.NEAREST).save(
        Path(__file__).with_name("picture.png"), optimize=True
    )


if __name__ == "__main__":
    main()
