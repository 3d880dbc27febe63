"""Every exit code of DESIGN.md, as a shell sees it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from user_view import REPOSITORY, press_ctrl_c, read_until, replaced, started

from mmdeploy.core import errors

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def build(mmdeploy_process: Command, tiny_recipe: Path, shared_workdir: Path) -> Command:
    def run(*overrides: str, **options: object) -> "subprocess.CompletedProcess[str]":
        settings = [word for override in overrides for word in ("--set", override)]
        return mmdeploy_process("build", tiny_recipe, "--workdir", shared_workdir, *settings, **options)

    return run


def report_says(mmdeploy_command: Command, shared_workdir: Path) -> int:
    """Ask again, as a later stage of a pipeline does."""
    return mmdeploy_command("report", shared_workdir / "runs" / "two_towers" / "latest").returncode


def test_0_when_all_gates_passed(
    build: Command, mmdeploy_command: Command, shared_workdir: Path, tmp_path: Path
) -> None:
    done = build()
    assert (done.returncode, done.stderr) == (errors.EXIT_PASS, "")
    assert "two_towers passed: all 2 gates" in done.stdout
    assert (tmp_path / "model_repository" / "two_towers").is_symlink()
    assert report_says(mmdeploy_command, shared_workdir) == errors.EXIT_PASS


def test_1_when_a_gate_failed(build: Command, mmdeploy_command: Command, shared_workdir: Path, tmp_path: Path) -> None:
    done = build("gates=[{method: size, max_ratio_to_reference: 0.01}]")
    assert (done.returncode, done.stderr) == (errors.EXIT_GATE_FAILED, "")
    assert "two_towers failed: size" in done.stdout
    assert not (tmp_path / "model_repository").exists()
    assert report_says(mmdeploy_command, shared_workdir) == errors.EXIT_GATE_FAILED


@pytest.mark.parametrize("arguments", [["build"], ["biuld"], ["build", "gone.yaml"], ["serve", "--http-port", "x"]])
def test_2_when_the_command_line_is_wrong(mmdeploy_process: Command, arguments: list[str]) -> None:
    done = mmdeploy_process(*arguments)
    assert (done.returncode, done.stdout) == (errors.EXIT_USAGE, "")
    assert done.stderr.startswith("error: ")


def test_3_when_a_step_failed(
    build: Command, tiny_recipe: Path, mmdeploy_command: Command, shared_workdir: Path
) -> None:
    replaced(tiny_recipe.with_name("data.py"), "    return _samples(1, 64)", "    return []")
    done = build("gates=[]")
    assert done.returncode == errors.EXIT_STEP_FAILED
    assert "step data/calibration failed: data.py:calibration gives no samples\n" in done.stderr
    assert "error" not in done.stdout
    assert report_says(mmdeploy_command, shared_workdir) == errors.EXIT_STEP_FAILED


def test_4_when_this_environment_cannot_do_it(build: Command) -> None:
    done = build("target=tensorrt")
    if done.returncode == errors.EXIT_INCONCLUSIVE:
        pytest.skip("tensorrt is installed here")
    assert done.returncode == errors.EXIT_ENVIRONMENT
    assert done.stderr.startswith("error: not installed in this environment: tensorrt (for ")
    assert done.stderr.endswith("hint: pip install 'multimodal-deploy[gpu]'\n")


def test_5_when_a_gate_cannot_decide(
    build: Command, mmdeploy_command: Command, shared_workdir: Path, tmp_path: Path
) -> None:
    """Milliseconds bind only on the hardware that the recipe names."""
    done = build("gates=[{method: latency, max_ms: 100, hardware: another machine, max_seconds: 1}]")
    assert (done.returncode, done.stderr) == (errors.EXIT_INCONCLUSIVE, ""), done.stdout
    assert "two_towers inconclusive: latency" in done.stdout
    assert not (tmp_path / "model_repository").exists()
    assert report_says(mmdeploy_command, shared_workdir) == errors.EXIT_INCONCLUSIVE


#: A bug of ours cannot be had by asking: one is put in.
BUGGY = """
import sys, mmdeploy.core.store
def explode(*_): raise ZeroDivisionError("nobody thought of this")
mmdeploy.core.store.Store.latest_identity = explode
from mmdeploy.cli import main
main()
"""


def test_70_after_a_bug(tiny_recipe: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUGGY, "build", tiny_recipe, "--workdir", tmp_path / "work"],
        capture_output=True, text=True, cwd=tmp_path, env=_environment(tmp_path), timeout=500,
    )  # fmt: skip
    assert done.returncode == errors.EXIT_BUG, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("error: a bug in mmdeploy (ZeroDivisionError: nobody thought of this); please report")
    (saved,) = tmp_path.glob("mmdeploy-bug-*.txt")
    assert str(saved) in done.stderr
    text = saved.read_text()
    assert "\ntorch: " in text
    assert "in explode\n" in text
    assert (tmp_path / "work" / "runs" / "two_towers" / "latest" / "report.json").is_file()


def test_130_after_ctrl_c(tiny_recipe: Path, tmp_path: Path) -> None:
    process = started("build", tiny_recipe, "--set", "gates=[]", cwd=tmp_path)
    read_until(process, "/export: started")
    rest, told = press_ctrl_c(process)
    assert process.returncode == errors.EXIT_INTERRUPTED
    assert told.strip() == "error: interrupted"
    assert "two_towers stopped: interrupted, the gates did not decide" in rest


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "TMPDIR": str(folder)}
