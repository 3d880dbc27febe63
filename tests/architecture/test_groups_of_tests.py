"""That `--dist loadgroup` groups: versions of pytest and pytest-xdist that do not fit group nothing, silently."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TESTS = """
import os, pathlib, pytest

@pytest.fixture(scope="module")
def costly():
    with open(pathlib.Path(__file__).with_name("made"), "a") as made:
        made.write(f"{os.getpid()}\\n")

@pytest.mark.parametrize("number", range(6))
def test_of_a_group(costly, number):
    pass
"""


def test_a_fixture_of_a_module_is_made_in_one_process(tmp_path: Path):
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests" / "conftest.py").read_text())
    (tmp_path / "test_sample.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert "6 passed" in done.stdout, done.stdout + done.stderr
    assert len((tmp_path / "made").read_text().split()) == 1
