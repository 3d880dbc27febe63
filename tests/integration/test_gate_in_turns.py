"""``mmdeploy gate`` on two repositories that are served side by side by real Tritons."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]


@pytest.fixture
def release(tiny_recipe: Path, shared_workdir: Path, mmdeploy_command: Command, tmp_path: Path) -> Path:
    built = mmdeploy_command("build", tiny_recipe, "--workdir", shared_workdir, "--output", tmp_path / "published")
    assert built.returncode == 0, built.stderr
    return tmp_path / "published" / "two_towers"


def test_a_release_against_itself(release: Path, mmdeploy_command: Command, tmp_path: Path) -> None:
    judge = ("gate", release, "--baseline", release, "--max-latency-ratio")
    told = mmdeploy_command(*judge, "1000", "--max-drop", "0.2", "--max-seconds", "12", "--json")
    assert told.returncode in (0, 5), told.stderr  # a busy machine may leave anything open
    found = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    ratio = found["p50 ratio (batch 1, concurrency 1)"]
    assert ratio["note"].startswith("both repositories served on this machine, asked in turns")
    low, high = ratio["interval"]
    assert 0 <= low <= ratio["measured"] <= float(high) and ratio["samples"] > 0
    assert found["top1 drop"]["measured"] == 0 and found["top1 drop"]["smallest_effect"] > 0
    refused = mmdeploy_command(*judge, "3", "--no-measure")
    assert refused.returncode == 5 and "no latency of the ensemble was measured in both builds" in refused.stdout
    # nothing is served where that cannot be compared, or is not there
    shutil.copy(release / "report.json", tmp_path / "alone.json")
    alone = mmdeploy_command("gate", release, "--baseline", tmp_path / "alone.json", *judge[4:], "3", "--measure")
    assert alone.returncode == 2 and "no repository to serve is there" in alone.stderr
    pointless = mmdeploy_command("gate", release, "--baseline", release, "--max-drop", "0", "--measure")
    assert pointless.returncode == 2 and "--measure is for latency" in pointless.stderr
    changed = tmp_path / "changed"
    shutil.copytree(release, changed)
    (changed / "two_towers" / "config.pbtxt").write_text((release / "two_towers" / "config.pbtxt").read_text() + "\n")
    damaged = mmdeploy_command("gate", changed, "--baseline", release, *judge[4:], "3")
    assert damaged.returncode == 3 and "is not what was published" in damaged.stderr
