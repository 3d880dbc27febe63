"""``--store`` of sweep and matrix: a machine with an empty folder takes what another one has made."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdeploy.core.target import this_hardware
from mmdeploy.record.report_file import read_report
from mmdeploy.studies.classes import CPUS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("builds")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
#: In the store of the machine after the first run, and nothing of it has to be served.
FLOAT = ("--set", "gates=[]", "--set", "components.right.quantize=null")


@pytest.fixture
def twice(mmdeploy_command: Command, tiny_recipe: Path, tmp_path: Path, shared_workdir: Path) -> Callable[..., str]:
    """Runs a verb on this machine, then in an empty work folder with the same store; returns what the second said."""

    def run(verb: str, *arguments: str) -> str:
        for place in (shared_workdir, tmp_path / "other"):
            done = mmdeploy_command(
                verb, tiny_recipe, *FLOAT, *arguments, "--json", "--workdir", place,
                "--store", f"file://{tmp_path / 'store'}", "--jobs", 1,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        return str(done.stdout)

    return run


def test_a_sweep_takes_what_another_machine_made(twice: Callable[..., str]) -> None:
    varied = ("--set", "components.left.quantize=null", "--set", "components.fusion.serving.max_batch_size=4,8")
    found = json.loads(twice("sweep", *varied, "--objective", "bytes", "--budget", "1", "--name", "taken", "--anew"))
    (trial,) = found["trials"]
    assert trial["status"] == "passed" and trial["ran"] == 0 < trial["steps"]


def test_a_matrix_takes_what_another_machine_made(twice: Callable[..., str], tmp_path: Path) -> None:
    here = next((name for name, one in CPUS.items() if one.is_here(this_hardware(), ())), None)
    if here is None:
        pytest.skip("this machine's CPU is of no class that has a name")
    twice("matrix", "--set", "components.left.quantize=null", "--targets", here)
    report = read_report(tmp_path / "other" / "matrix" / "two_towers" / here)
    assert {step.status for step in report.steps} == {"reused"}
