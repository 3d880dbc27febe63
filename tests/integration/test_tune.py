"""``mmdeploy tune`` on real servers: settings that cost half a second are found, and what is written builds."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import mmdeploy
from mmdeploy.building.settings import Settings
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.triton.config import parse

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_wait_that_breaks_the_limit_is_found_and_the_variant_reuses_the_engines(
    mmdeploy_command: Command, tiny_recipe: Path, tmp_path: Path, shared_workdir: Path
) -> None:
    text = tiny_recipe.read_text().replace("    keep: always\n", "    keep: always\n    serving: {dynamic_batching: "
                                           "{max_queue_delay_us: 600000}}\n")  # fmt: skip
    tiny_recipe.write_text(text)
    done = mmdeploy_command("tune", tiny_recipe, "--p95-ms", 100)
    assert done.returncode == 2
    assert "there is no release model_repository/two_towers\nhint: mmdeploy build" in done.stderr
    settings = Settings(workdir=shared_workdir, destination=tmp_path / "model_repository")
    mmdeploy.build(mmdeploy.load_recipe(tiny_recipe, ["gates=[]"]), settings)
    done = mmdeploy_command(
        "tune", tiny_recipe, "--p95-ms", 500, "--clients", 2, "--minutes", 0.001, "--window", 0.9, "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "better"
    assert found["present"]["verdict"] == "missed" and found["present"]["p95_ms"] > 570
    assert found["tuned"]["verdict"] == "met"
    assert found["trials"][0]["change"] == "all: not grouped" and found["trials"][0]["kept"]
    assert found["left"] > 10, "the time was up"
    assert tiny_recipe.read_text() == text
    tuned = load_recipe(tiny_recipe.with_name("tuned.yaml"), ["gates=[]"])
    assert tuned.components["left"].serving.dynamic_batching is None
    outcome = mmdeploy.build(tuned, settings)
    assert {step.status for step in outcome.report.steps} == {"reused"}, "no engine is made anew"
    config = tmp_path / "model_repository" / "two_towers" / "two_towers.left" / "config.pbtxt"
    assert not parse(config.read_text(), "config").HasField("dynamic_batching")
    done = mmdeploy_command("tune", tiny_recipe, "--p95-ms", 100, "--dry-run")
    assert done.returncode == 2
    assert "was built with other settings of left (not grouped" in done.stderr
