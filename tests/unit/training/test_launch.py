"""Training on two real processes: Accelerate's launcher, gloo, the loopback interface."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import launched_calls
import living_processes
import numpy as np
import psutil
import pytest

from mmdeploy.core.errors import DataError, StepError
from mmdeploy.training.launch import LaunchedBugError, run_launched

HERE = Path(__file__).parent
# 69 samples in batches of 17: shares of 8 and 9, and a last batch of which one process gets none.
TRAINING = {"samples": 69, "options": {"epochs": 2, "batch_size": 17, "learning_rate": 1e-2}, "sparse": ["0.weight"]}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the launched processes import what lies beside this file."""
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # of the user's own: must not reach the training


def test_two_processes_get_the_weights_and_metrics_of_one(tmp_path):
    reports = []
    one = launched_calls.trained(TRAINING, lambda *_: None)
    two = run_launched(
        "launched_calls:trained", TRAINING, processes=2, threads=2, log=tmp_path / "log",
        progress=lambda *report: reports.append(report),
    )  # fmt: skip
    assert two["record"]["processes"] == 2
    for name, weights in one["weights"].items():
        np.testing.assert_allclose(two["weights"][name], weights, atol=1e-5, err_msg=name)
    for alone, shared in zip(one["record"]["epochs"], two["record"]["epochs"], strict=True):
        assert shared["metric"] == alone["metric"]
        assert shared["validation_loss"] == pytest.approx(alone["validation_loss"], rel=1e-4)
        assert (shared["training_loss"] or 0) == pytest.approx(alone["training_loss"] or 0, rel=1e-4)
    assert reports[-1][:2] == (10, 10)
    assert "top1" in (tmp_path / "log").read_text()


def test_an_error_in_one_process_is_raised_here_and_ends_the_other(tmp_path):
    with pytest.raises(DataError, match="the second process has bad data"):
        run_launched("launched_calls:fails_in_second", "data", processes=2, threads=1, log=tmp_path / "log")
    with pytest.raises(LaunchedBugError, match="ZeroDivisionError: a bug in the second process") as caught:
        run_launched("launched_calls:fails_in_second", "bug", processes=2, threads=1, log=tmp_path / "log")
    assert "fails_in_second" in caught.value.__notes__[0]


def test_a_process_that_is_killed_is_a_failed_step_with_its_log(tmp_path):
    with pytest.raises(StepError, match="one of 2 training processes died") as caught:
        run_launched("launched_calls:fails_in_second", "kill", processes=2, threads=1, log=tmp_path / "log")
    assert caught.value.log == str(tmp_path / "log")
    assert "SIGKILL" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_the_processes_end_with_the_one_that_started_them(tmp_path, ending):
    code = (
        "from mmdeploy.training.launch import run_launched; "
        f"run_launched('launched_calls:sleeps', {str(tmp_path)!r}, processes=2, threads=1)"
    )
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[2]}{os.pathsep}{HERE}"}
    starter = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < deadline and starter.poll() is None, "the processes did not start"
            time.sleep(0.1)
        children = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
        family = [psutil.Process(starter.pid), *living_processes.below(starter.pid)]
        listening = [address for process in family for address in living_processes.listening(process)]
        assert listening and set(listening) <= {"127.0.0.1", "::1"}
        starter.send_signal(ending)
        starter.wait(60)
        living_processes.assert_ended(children)
    finally:
        starter.kill()
        starter.wait()
