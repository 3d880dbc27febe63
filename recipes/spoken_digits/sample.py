"""Write one pair of the test split as files that a client would send: image.png, audio.wav and request.json.

    python recipes/spoken_digits/sample.py OUT_FOLDER [INDEX]

``request.json`` is a KServe v2 inference request with the same numbers, for curl.
"""

from __future__ import annotations

import json
import sys
import wave
from itertools import islice
from pathlib import Path

import numpy as np
from data import evaluation
from numpy.typing import NDArray
from PIL import Image

SAMPLE_RATE_HZ = 8000


def write(folder: Path, image: NDArray[np.uint8], waveform: NDArray[np.float32]) -> None:
    """Write the three files; the audio in 16 bits, as recorders do.

    Args:
        folder: Where to.
        image: Grey levels [8, 8].
        waveform: Samples in [-1, 1], [4000].
    """
    Image.fromarray(image).save(folder / "image.png")
    with wave.open(str(folder / "audio.wav"), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(SAMPLE_RATE_HZ)
        stream.writeframes((waveform * 32767).round().astype("<i2").tobytes())
    tensors = (("image", "UINT8", image), ("audio", "FP32", waveform))
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1, *array.shape], "data": array.ravel().tolist()}
        for name, datatype, array in tensors
    ]
    (folder / "request.json").write_text(json.dumps({"inputs": inputs}))


def main() -> None:
    """Write the files and say which digit they show."""
    folder, index = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    feed, label = next(islice(evaluation(), index, None))
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, feed["image"], feed["audio"])
    print(f"test pair {index} shows the digit {label}: image.png, audio.wav, request.json")


if __name__ == "__main__":
    main()
