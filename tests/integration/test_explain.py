"""``mmdeploy explain`` on a build of which one component was spoilt, swapped between two real Tritons."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

SPOILT = ("--set", "components.left.prune={method: magnitude, sparsity: 0.9}", "--set", "gates.1.max_drop=0.01")


def test_the_component_that_was_spoilt_is_found(
    tiny_recipe: Path, shared_workdir: Path, mmdeploy_command: Command, tmp_path: Path
) -> None:
    work = ("--workdir", shared_workdir)
    built = mmdeploy_command("build", tiny_recipe, *work, *SPOILT)
    assert built.returncode == 1, built.stderr
    run = shared_workdir / "runs" / "two_towers" / "latest"
    told = mmdeploy_command("explain", run, "accuracy", *work, *SPOILT, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["verdict"] == "fail" and any(one.startswith("top1 drop") for one in found["missed"])
    sections = {
        section["title"].partition(",")[0].partition(": loss that")[0]: section for section in found["sections"]
    }
    alone = next(one for title, one in sections.items() if "only it is as shipped" in title)["shares"]
    back = sections["component by component"]["shares"]
    for shares in (alone, back):
        assert {one["what"] for one in shares} == {"left", "right", "fusion"}
        assert shares[0]["what"] == "left" and shares[0]["told"] == "loses" and shares[0]["interval"][0] > 0.1
        assert {one["told"] for one in shares[1:]} == {"cannot be told from none"}
    exported, shipped, whole = next(one for one in found["sections"] if "stage by stage: loss" in one["title"])[
        "shares"
    ]
    assert exported["value"] == 0 and shipped["value"] == whole["value"] > 0.1
    gate = next(one for one in json.loads((run / "report.json").read_text())["gates"] if one["gate"] == "accuracy")
    assert whole["value"] == pytest.approx(gate["details"]["drop"])  # walked from outside as it is served inside
    (chain,) = [one for one in found["sections"] if one["title"].startswith("left, stage by stage: loss")]
    pruned, quantized = chain["shares"]
    assert pruned["told"] == "loses" and quantized["told"] == "cannot be told from none"
    assert pruned["value"] + quantized["value"] == pytest.approx(alone[0]["value"])
    assert found["conclusions"][0].startswith("left loses most for sure")
    assert "names no data.calibration or no data.validation" in found["not_measured"][0]
    # what cannot be explained says why
    changed = mmdeploy_command("explain", run, "accuracy", "--workdir", tmp_path / "other", *SPOILT)
    assert changed.returncode == 2 and "does not have what" in changed.stderr and "--report-only" in changed.stderr
    tiny_recipe.write_text(tiny_recipe.read_text() + "# changed\n")
    changed = mmdeploy_command("explain", run, "accuracy", *work, *SPOILT)
    assert changed.returncode == 2 and "is not what was built any more" in changed.stderr
