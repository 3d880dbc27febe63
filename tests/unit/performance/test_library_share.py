"""`benchmarks/library_share.py` charges processor time to who spends it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SPENT_S = 0.4
OURS = f"""
import functools, hashlib, time
import numpy as np

def spending(work):
    until = time.process_time() + {SPENT_S}
    while time.process_time() < until:
        work()

def busy():
    for number in range(10_000):
        number * number

def native(numbers=np.full(2**24, 2.0)):
    np.power(numbers, 0.97, out=numbers)

def hashed(content=bytes(2**26)):
    hashlib.sha256(content)

def called_back(rows=np.ones((100, 4))):
    np.apply_along_axis(summed, 1, rows)

def summed(row):
    for number in range(2000):
        number * number
    return number
"""


@pytest.mark.parametrize(
    ("work", "owner", "place"),
    [
        ("busy", "mmdeploy", "ours.py:busy"),
        ("hashed", "mmdeploy", "ours.py:hashed"),
        ("called_back", "mmdeploy", "ours.py:summed"),
        ("native", "library", ""),
        ("recipes", "recipe", ""),
    ],
)
def test_time_is_charged_to_who_spends_it(
    work: str, owner: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import library_share

    ours, recipe = tmp_path / "ours", tmp_path / "recipe"
    for folder in (ours, recipe):
        folder.mkdir()
    (ours / "ours.py").write_text(OURS)
    (recipe / "model.py").write_text("def recipes():\n    for number in range(10_000):\n        number * number\n")
    monkeypatch.setattr(library_share, "_OURS", ours)
    program = f"import sys\nsys.path[:0] = {[str(ours), str(recipe)]}\n"
    program += f"import ours, model\nours.spending(getattr(ours, {work!r}, None) or model.recipes)\n"

    def run(more: Mapping[str, str]) -> None:
        subprocess.run([sys.executable, "-c", program], env=more, check=True)

    owners, places = library_share.measure(run, recipe)
    assert owners[owner] > 0.8 * SPENT_S, owners
    if owner == "mmdeploy":
        assert places[place] > 0.5 * SPENT_S, places
    else:
        assert owners["mmdeploy"] < 0.5 * SPENT_S, (owners, places)
