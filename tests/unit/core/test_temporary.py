"""Temporary folders: what a killed process left is swept, and nothing else."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mmdeploy.core import temporary

HOLDS = """
import sys, time
from mmdeploy.core.temporary import temporary_folder
with temporary_folder("test") as folder:
    (folder / "large").write_bytes(b"1")
    print(folder, flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    temporary.sweep.cache_clear()
    yield tmp_path
    temporary.sweep.cache_clear()


def test_a_folder_is_removed_at_the_end_whatever_happens(root):
    with pytest.raises(KeyError), temporary.temporary_folder("test") as folder:
        (folder / "file").write_text("1")
        assert folder.parent == root
        raise KeyError
    assert not list(root.iterdir())


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_holds_is_not(root):
    command = [sys.executable, "-c", HOLDS]
    environment = {"TMPDIR": str(root), "PATH": "/usr/bin:/bin"}
    killed, living = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2))
    try:
        left, held = (process.stdout.readline().strip() for process in (killed, living))
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        with temporary.temporary_folder("test") as own:
            assert {str(path) for path in root.iterdir()} == {held, str(own)}
        assert left != held
    finally:
        living.kill()
        living.wait()


def test_what_is_not_ours_is_left_alone(root):
    for name in ("mmdeploy-mine", "other.held"):
        (root / name).mkdir()
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("1")
    (root / "mmdeploy-link.held").symlink_to(elsewhere)
    (root / "mmdeploy-file.held").write_text("1")
    before = sorted(root.rglob("*"))
    temporary.sweep(str(root))
    assert sorted(root.rglob("*")) == before


def test_removing_twice_closes_nothing_of_others(root):
    folder = temporary.hold_folder("test")
    folder.remove()
    with (root / "open").open("w") as other:  # takes the number that was let go
        folder.remove()
        other.write("still open")
    assert (root / "open").read_text() == "still open"


def test_a_folder_that_another_process_sweeps_as_soon_as_it_is_made_is_made_again(root, monkeypatch):
    made, make = list[str](), tempfile.mkdtemp

    def swept(**where: str) -> str:
        made.append(make(**where))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    folder = temporary.hold_folder("test", str(root))
    assert [str(folder.path)] == made[1:] and folder.path.is_dir()
    folder.remove()
