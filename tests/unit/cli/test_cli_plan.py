"""``mmdeploy plan``: what would run and why, with nothing of the recipe executed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.store import Store
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.steps import recorded_in
from mmdeploy.recipe.loader import load_recipe

STEPS = [
    "data/calibration", "data/evaluation",
    "left/export", "left/quantize", "left/reference", "left/engine",
    "right/export", "right/quantize", "right/reference", "right/engine",
    "fusion/export", "fusion/reference", "fusion/engine", "original/outputs",
]  # fmt: skip


@pytest.fixture
def planned(tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def plan(*arguments: str) -> str:
        assert run(commands, ["plan", str(tiny_recipe), "--workdir", str(tmp_path / "work"), *arguments]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return told.out

    return plan


def test_a_first_plan_runs_everything(planned: Callable[..., str]) -> None:
    shown = planned()
    lines = shown.splitlines()
    assert lines[0].split() == ["step", "method", "do", "why"]
    assert [line.split()[0] for line in lines if "/" in line] == STEPS
    assert shown.count("never built") == len(STEPS)
    assert lines[-1] == "14 to run, 0 to reuse"


def test_what_the_store_has_is_reused_and_a_change_is_named(
    planned: Callable[..., str], tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(tiny_recipe)
    store = Store(tmp_path / "work" / "store")
    for _ in range(2):  # the keys of those who read samples are known when these are recorded
        for step in make_plan(recipe, take_fingerprints(recipe, store), contents=recorded_in(store)).steps:
            store.entry(step.key).mkdir(exist_ok=True)
            store.remember("two_towers", step.id, step.identity)
            if step.component == "data":
                (store.entry(step.key) / "samples.json").write_text('{"content": "whole"}')
                (store.entry(step.key) / "digests.bin").write_bytes(bytes(64 * 16))
    assert planned().splitlines()[-1] == "0 to run, 14 to reuse"
    changed = planned("--set", "components.left.quantize.samples=32")
    assert "option samples: 64 → 32" in changed
    assert changed.splitlines()[-1] == "2 to run, 12 to reuse"
    tiny_recipe.with_name("data.py").open("a").write("\nsaid = 'in other words'\n")
    open_end = planned()
    assert "data/calibration  samples      run      code of data.py:calibration changed" in open_end
    assert "left/engine       onnxruntime  perhaps  left/quantize may change" in open_end
    # examples are calibration samples: all that is made of a component may change with them
    assert "left/export       onnx         perhaps  data/calibration may change" in open_end
    assert open_end.splitlines()[-1] == "2 to run, 12 to run if the samples are others, 0 to reuse"


def test_json_holds_the_same_with_the_keys(planned: Callable[..., str]) -> None:
    told = json.loads(planned("--json"))
    assert told["recipe"] == "two_towers"
    assert [step["id"] for step in told["steps"]] == STEPS
    assert {(step["reuse"], step["why"]) for step in told["steps"]} == {(False, "never built")}
    assert all(len(step["key"]) == 64 for step in told["steps"])


def test_nothing_of_the_recipe_is_executed(
    mmdeploy_command: Callable[..., "subprocess.CompletedProcess[str]"], tiny_recipe: Path, tmp_path: Path
) -> None:
    for name in ("model.py", "data.py"):
        with tiny_recipe.with_name(name).open("a") as stream:
            stream.write("\nraise SystemExit('executed')\n")
    done = mmdeploy_command("plan", tiny_recipe)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("14 to run, 0 to reuse\n")


def test_a_wrong_recipe_is_not_planned(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["plan", str(tiny_recipe), "--set", "target=gpu"]) == 2
    assert capsys.readouterr().err.startswith("error: 1 problem in the recipe\n--set target=gpu\n    'gpu' is not acc")


def test_a_work_folder_that_is_none(tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(commands, ["plan", str(tiny_recipe), "--workdir", str(tmp_path / "file" / "work")]) == 3
    assert capsys.readouterr().err == (
        f"error: cannot write {tmp_path}/file/work/store/entries: Not a directory\n"
        "hint: name another folder with --workdir\n"
    )
