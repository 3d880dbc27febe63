"""Write `picture.png`: ten scenes of the test split.

python recipes/scene_search/picture.py    # needs Pillow
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import rendered, split
from PIL import Image


def main() -> None:
    """Write the picture beside this file."""
    images = rendered(split("test")[:10], seed=4)
    rows = [np.concatenate(list(images[start : start + 5]), axis=1) for start in (0, 5)]
    picture = Image.fromarray(np.concatenate(rows)).quantize(64)
    picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.NEAREST).save(
        Path(__file__).with_name("picture.png"), optimize=True
    )


if __name__ == "__main__":
    main()
