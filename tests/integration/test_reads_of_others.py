"""What other programs read in a recipe's folder during a build is no reason to run a step again."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import whole_recipe

import mmdeploy
from mmdeploy.model.fanotify import Fanotify

pytestmark = [pytest.mark.triton, pytest.mark.slow]

TINY = Path(__file__).parents[1] / "tiny_recipe"
OVERRIDES = (
    "gates=[]",
    "components.fusion.recover={method: finetune, epochs: 1}",
    "data.training=data.py:training",
    "data.validation=data.py:validation",
)
#: Opens a file of the recipe as native code does, without a word to Python.
DATA = """
import ctypes, os
from pathlib import Path

def _natively(name):
    libc = ctypes.CDLL(None)
    os.close(libc.open(bytes(Path(__file__).with_name(name)), 0))

"""


@contextmanager
def opened_again_and_again(path: Path) -> Iterator[None]:
    """Open a file in this process, which is none of the build's, all the time."""
    ended = threading.Event()

    def opens() -> None:
        while not ended.wait(0.002):
            os.close(os.open(path, os.O_RDONLY))

    thread = threading.Thread(target=opens)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def says_who(folder: Path) -> bool:
    asked = Fanotify()
    try:
        return asked.add(str(folder), folder=True)
    finally:
        asked.close()


def test_what_another_program_opens_during_a_build_is_not_what_its_steps_read(tmp_path: Path) -> None:
    if not says_who(tmp_path):
        pytest.skip("the kernel does not say who opened a file")
    folder = tmp_path / "recipe"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    data = folder / "data.py"
    for name in ("training", "evaluation", "calibration"):
        begin = data.read_text().index(f"def {name}(")
        head, body = data.read_text()[:begin], data.read_text()[begin:]
        data.write_text(head + body.replace("    return", f"    _natively('{name}.bin')\n    return", 1))
        (folder / f"{name}.bin").write_text("1")
    docstring, imports, rest = data.read_text().partition("from collections")
    data.write_text(docstring + DATA.lstrip() + imports + rest)
    notes = folder / "notes.bin"
    notes.write_text("1")

    def again() -> set[str]:
        recipe = mmdeploy.load_recipe(folder / "recipe.yaml", OVERRIDES)
        return {one.step.id for one in mmdeploy.plan(recipe, workdir=tmp_path / "work") if not one.reuse}

    with opened_again_and_again(notes):
        whole_recipe.built(folder / "recipe.yaml", tmp_path, OVERRIDES)
    assert again() == set()
    notes.write_text("2")
    assert again() == set(), "nobody but another program read it"
    (folder / "training.bin").write_text("2")
    assert "fusion/recover" in again()
    assert "data/calibration" not in again()
    (folder / "calibration.bin").write_text("2")
    assert "data/calibration" in again()
