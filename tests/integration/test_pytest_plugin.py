"""The pytest plug-in: tests of a user's own ask a served ensemble."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_triton_repository import config, ensemble, write

pytestmark = [pytest.mark.triton, pytest.mark.xdist_group("plugin")]

THEIRS = """
import numpy as np
import pytest


def test_the_ensemble_answers(mmdeploy_ensemble):
    asked = mmdeploy_ensemble("models")
    assert asked is mmdeploy_ensemble("models")
    answers = asked.infer({"u": np.full((2, 4), -1, np.float32), "v": np.full((2, 4), 2, np.float32)})
    np.testing.assert_array_equal(answers["z"], np.full((2, 4), -2, np.float32))


def test_a_component_by_name(mmdeploy_ensemble):
    found = mmdeploy_ensemble("models", "negated").infer({"x": np.ones((1, 4), np.float32)})
    assert found["y"].tolist() == [[-1] * 4]


def test_that_fails(mmdeploy_ensemble):
    assert mmdeploy_ensemble("models", "negated").infer({"x": np.ones((1, 4), np.float32)})["y"].max() > 0


def test_nothing_there(mmdeploy_ensemble):
    mmdeploy_ensemble("gone")
"""


def test_tests_of_a_users_own_ask_a_server(tmp_path: Path) -> None:
    write(tmp_path / "models", config("positive"), config("negated"), config("summed"), ensemble())
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["mmdeploy.testing.pytest_plugin"]\n')
    (tmp_path / "test_theirs.py").write_text(THEIRS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "temp")],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300, env=dict(os.environ),
    )  # fmt: skip
    assert "2 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "UsageError: " in done.stdout and "gone is not there" in done.stdout
    assert len(list((tmp_path / "temp").rglob("triton.log"))) == 1  # one server for all of them
