"""The verb ``sensitivity``, run as a user would, on a model in which INT8 destroys one layer."""

import json
import shutil
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "outlier_recipe"


pytestmark = pytest.mark.xdist_group("debug")


@pytest.fixture
def recipe(tmp_path: Path, shared_workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe of its own; what one test has built of it, the next reuses."""
    monkeypatch.setenv("MMDEPLOY_WORKDIR", str(shared_workdir))
    return Path(shutil.copytree(RECIPE, tmp_path / "recipe"))


@pytest.mark.slow
def test_the_worst_group_comes_first_and_what_was_measured_is_reused(mmdeploy_command, recipe):
    found = mmdeploy_command("sensitivity", recipe)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    table = lines.index("tower: each layer group alone in INT8, top1 on 200 samples, worst first")
    assert lines[table + 2].split()[0] == "blocks.1.down"
    assert "head/sensitivity: ran" in found.stdout
    page, figures = (Path(line.partition(": ")[2]) for line in lines[-2:])
    folder = recipe.parent
    assert "<svg" in (folder / page).read_text() and "blocks.1.down" in (folder / page).read_text()
    ranked = json.loads((folder / figures).read_text())["components"]["tower"]["sensitivity"]
    assert ranked[0]["group"] == "blocks.1.down" and ranked[0]["drop"] > 0.1

    again = mmdeploy_command("sensitivity", recipe, "--component", "tower", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["components"] == {
        "tower": json.loads((folder / figures).read_text())["components"]["tower"]
    }
    assert "tower/sensitivity: reused" in again.stderr
    assert "head/sensitivity" not in again.stderr


@pytest.mark.slow
def test_a_change_of_the_calibrator_is_another_measurement(mmdeploy_command, recipe):
    wanted = ("sensitivity", recipe, "--component", "tower", "--json")
    first = mmdeploy_command(*wanted)
    other = mmdeploy_command(*wanted, "--set", "components.tower.quantize.calibrator=entropy")
    assert "tower/export: reused" in other.stderr and "tower/sensitivity: ran" in other.stderr
    assert json.loads(first.stdout) != json.loads(other.stdout)


def test_data_that_is_missing_is_named(mmdeploy_command, recipe):
    found = mmdeploy_command("sensitivity", recipe, "--set", "data.validation=null")
    assert found.returncode == 2
    assert "names no data.validation" in found.stderr
    assert "hint: write `validation: data.py:validation` under `data`" in found.stderr


def test_an_unknown_component_shows_the_nearest(mmdeploy_command, recipe):
    found = mmdeploy_command("sensitivity", recipe, "--component", "tover")
    assert found.returncode == 2
    assert "no component is called 'tover'; did you mean 'tower'?" in found.stderr


def test_samples_that_the_gates_judge_on_are_refused(mmdeploy_command, recipe):
    """The same samples under another name: the plan cannot see it, the run does."""
    text = (recipe / "data.py").read_text()
    (recipe / "data.py").write_text(text.replace("return _labelled(2, 200)", "return _labelled(3, 200)"))
    found = mmdeploy_command("sensitivity", recipe, "--component", "head")
    assert found.returncode == 3
    assert "data.py:validation: sample 0 is also sample 0 of data.py:evaluation" in found.stderr


@pytest.mark.slow
def test_a_budget_that_cannot_be_met_is_a_no_and_shows_the_best_found(mmdeploy_command, recipe):
    section = "{method: auto, calibrator: minmax, max_drop: 0.01, groups: ['*'], must_pay: false}"
    found = mmdeploy_command(
        "build", recipe, "--set", f"components.tower.quantize={section}", "--set", "components.tower.keep=always"
    )
    assert found.returncode == 1, found.stderr
    assert "the best found has 1 of 1 layer groups (*) in INT8 and loses" in found.stderr
    assert "hint: raise max_drop" in found.stderr


@pytest.mark.slow
def test_auto_without_validation_data_is_refused_by_the_plan(mmdeploy_command, recipe):
    found = mmdeploy_command(
        "validate", recipe, "--set", "components.tower.quantize={method: auto}", "--set", "data.validation=null"
    )
    assert found.returncode == 2
    assert "data.validation" in found.stderr + found.stdout
