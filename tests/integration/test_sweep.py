"""``mmdeploy sweep`` on real builds: a search that Ctrl-C ends goes on, and each point is a recipe of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mmdeploy
from mmdeploy.building.settings import Settings

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
#: Only parity is judged, and 0.99999 of it is more than any INT8 graph here has.
GATES = "gates=[{method: parity, min_cosine: 0.99999}]"


def test_a_search_that_ctrl_c_ends_goes_on_and_its_points_are_recipes(
    mmdeploy_command: Command,
    tiny_recipe: Path,
    tmp_path: Path,
    shared_workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MMDEPLOY_WORKDIR", str(shared_workdir))
    asked = (
        "sweep", tiny_recipe, "--set", GATES, "--set", "components.right.quantize=null",
        "--set", "components.left.quantize=null,{method: static, samples: 64}",
        "--objective", "parity,bytes", "--name", "ends",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", "from mmdeploy.cli import main; main()", *map(str, asked)],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("[1/20]"):
        assert line or process.poll() is None, "it ended before its first trial"
    time.sleep(0.5)  # into the second
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "stopped, interrupted" in told
    study = shared_workdir / "sweeps" / "ends"
    before = json.loads((study / "sweep.json").read_text())
    assert before["interrupted"] and [one["number"] for one in before["trials"]] == [0]

    done = mmdeploy_command(*asked, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "2 points: all of them are built" in done.stderr
    trials = {one["point"]["components.left.quantize"]: one for one in found["trials"]}
    assert len(found["trials"]) == 2 and trials["null"] == before["trials"][0] | {"alike": trials["null"]["alike"]}
    static = trials["{method: static, samples: 64}"]
    assert static["status"] == "failed" and static["reason"].startswith("parity: left: worst cosine 0.99")
    assert static["ran"] < static["steps"], "what did not change came from the store"
    assert trials["null"]["status"] == "passed"
    assert found["front"] == [0] and found["chosen"] == 0
    assert found["build"] == f"mmdeploy build {study}/trials/000/recipe.yaml"
    assert not (tmp_path / "model_repository").exists(), "a sweep publishes nothing"
    for name in ("sweep.html", "sweep.md", "front.svg", "trials/000/report.html"):
        assert (study / name).stat().st_size > 500
    assert "left.quantize" in (study / "sweep.md").read_text()

    settings = Settings(workdir=shared_workdir, destination=tmp_path / "model_repository")
    outcome = mmdeploy.build(mmdeploy.load_recipe(study / "trials" / "000" / "recipe.yaml", ["gates=[]"]), settings)
    assert {step.status for step in outcome.report.steps} == {"reused"}
    assert sum(one.candidate_bytes or 0 for one in outcome.report.sizes) == trials["null"]["figures"]["bytes"]["value"]
    assert outcome.report.published == tmp_path / "model_repository" / "two_towers"

    done = mmdeploy_command(*asked, "--set", "seed=3")
    assert done.returncode == 2
    assert "recipe seed (0 → 3)" in done.stderr and "--anew" in done.stderr
