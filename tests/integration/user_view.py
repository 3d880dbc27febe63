"""What a user sees and does: edit a recipe's files, press Ctrl-C, work in an environment that lacks something."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import living_processes

REPOSITORY = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from mmdeploy.cli import main; main()"]

# Imports as if a package were not installed; what is installed otherwise stays as it is.
_HIDING = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""


def replaced(path: Path, before: str, after: str) -> None:
    """Edit a file of a recipe."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def without(folder: Path, *packages: str) -> dict[str, str]:
    """Return the environment variables of a Python in which packages are not installed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HIDING.format(hidden=packages))
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)]), "PATH": "/usr/bin:/bin"}


def started(*arguments: object, cwd: Path, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start ``mmdeploy`` in a process group of its own, as a shell does."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"} | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_until(process: "subprocess.Popen[str]", words: str) -> list[str]:
    """Read standard output up to a line that holds ``words``; return the lines."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"{words!r} was never said: {lines}, {process.stderr and process.stderr.read()}")


def press_ctrl_c(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Send SIGINT to the whole group; return the rest of standard output, and standard error.

    Fails if any process is left, or if a traceback is shown.
    """
    family = living_processes.below(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    living_processes.assert_ended(family)
    assert "Traceback" not in rest + errors, rest + errors
    return rest, errors


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something that takes a moment."""
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, f"{what} never happened"
        time.sleep(0.05)
