"""A function of the recipe's own is called for one sample after the other, whatever thread asks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmdeploy.preprocess import WiredMethod

#: It keeps what it works on in one place, as code does that nobody wrote for threads.
SHARED = """
import time

import numpy as np

found = []


def lengths(text):
    found.clear()
    for word in text.split():
        found.append(len(word))
        time.sleep(0.001)
    return np.array([sum(found)], np.int64)
"""


def test_rows_of_a_batch_do_not_meet_in_it(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(SHARED)
    described = {
        "method": "steps.py:lengths",
        "options": {"outputs": {"total": ["INT64", [1]]}},
        "inputs": {"text": "words"},
        "outputs": {"total": "total"},
    }
    wired = WiredMethod.from_json(described)
    wired.method.open(tmp_path)
    texts = [b"a bb ccc", b"dddd", b"ee ff gg hh", b"i j"]
    with ThreadPoolExecutor(4) as pool:
        found = wired.batch({"words": np.array([[text] for text in texts], dtype=object)}, pool)
    assert found["total"].ravel().tolist() == [6, 4, 8, 2]
