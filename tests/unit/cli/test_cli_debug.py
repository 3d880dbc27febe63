"""The verb ``debug``, run as a user would."""

import json
import shlex
import subprocess
from pathlib import Path

import onnx
import pytest

from mmdeploy.core.errors import EnvironmentUnfitError

pytestmark = pytest.mark.xdist_group("debug")


@pytest.fixture
def recipe(tiny_recipe: Path, shared_workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny recipe; what one test has built of it, the next reuses."""
    monkeypatch.setenv("MMDEPLOY_WORKDIR", str(shared_workdir))
    return tiny_recipe


def test_a_sound_component_keeps_every_tolerance(mmdeploy_command, recipe):
    found = mmdeploy_command("debug", recipe, "left")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "left on 16 samples of data.calibration (data.py:calibration)" in found.stdout
    for stage, what in (
        ("export", "the exported graph against PyTorch"),
        ("quantize", "the INT8 graph (uint8_asymmetric) against the exported graph"),
        ("engine", "onnxruntime on the INT8 graph against the same graph as it is written"),
    ):
        assert f"left/{stage}: {what}: " in found.stdout.replace("\n", " ")

    again = mmdeploy_command("debug", recipe, "left", "--json", "--samples", "3")
    assert again.returncode == 0 and "left/quantize: reused" in again.stderr
    report = json.loads(again.stdout)
    assert report["samples"] == 3
    tensors = {one["tensor"]: one for one in report["comparisons"][1]["tensors"]}
    assert tensors["values_DequantizeLinear_Output"]["reference"] == "values"
    assert tensors["linear"]["op_type"] == "Gemm" and tensors["linear"]["own_sqnr_db"] > 30
    assert tensors["embedding"]["is_output"] and tensors["embedding"]["own_sqnr_db"] is None


def test_more_samples_than_the_build_recorded_are_taken_as_far_as_there_are_any(mmdeploy_command, recipe):
    floats = [f"components.{name}.{key}=null" for name in ("left", "right", "fusion") for key in ("quantize", "keep")]
    options = [part for entry in (*floats, "gates=[]") for part in ("--set", entry)]
    found = mmdeploy_command("debug", recipe, "left", *options, "--samples", "40")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "left on 40 samples of data.calibration (data.py:calibration)\n" in found.stdout
    every = mmdeploy_command("debug", recipe, "left", *options, "--samples", "70")
    assert "left on 64 samples of data.calibration (data.py:calibration), which gives no more" in every.stdout


def test_the_second_caller_of_a_module_is_compared_with_what_was_built_of_it_on_its_own_inputs(
    mmdeploy_command, recipe
):
    found = mmdeploy_command("debug", recipe, "right", "--set", "components.right.module=left", "--json")
    assert found.returncode == 0, found.stdout + found.stderr
    stages = {one["stage"]: one for one in json.loads(found.stdout)["comparisons"]}
    assert set(stages) == {f"right/{kind}" for kind in ("export", "quantize", "reference", "engine")}
    assert all(one["tensors"] and not one["skipped"] for one in stages.values())


def test_the_first_tensor_that_leaves_its_tolerance_is_reduced_and_its_command_shows_it(mmdeploy_command, recipe):
    """Ranges that leave most of the values out: the fault is planted by an option of the recipe."""
    clipped = "components.fusion.quantize={method: static, samples: 64, percentile: 55, exclude: ['hidden/*']}"
    found = mmdeploy_command("debug", recipe, "fusion", "--set", clipped, "--output", "found it")
    assert found.returncode == 1, found.stdout + found.stderr
    report = json.loads((recipe.parents[1] / "found it" / "debug.json").read_text())
    stage = next(one for one in report["comparisons"] if one["stage"] == "fusion/quantize")
    assert stage["first"]["reference"] == "relu" and stage["first"]["tensor"].endswith("_DequantizeLinear_Output")
    assert "relu, rounded leaves its tolerance" in found.stdout.replace("\n", " ")
    made = stage["reproduction"]
    assert made["reproduces"] and made["nodes"] == 2 and made["inputs"] == ["relu"]
    assert made["command"] in found.stdout
    onnx.checker.check_model(str(Path(made["folder"]) / "subgraph.onnx"), full_check=True)
    for command in (made["command"], shlex.quote(str(Path(made["folder"]) / "command.sh"))):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 1 and "FAILED" in done.stdout + done.stderr, done.stdout + done.stderr
    page = (recipe.parents[1] / "found it" / "debug.md").read_text()
    assert made["command"] in page and "## fusion/quantize" in page


def test_a_graph_that_its_step_refused_is_compared_all_the_same(mmdeploy_command, recipe):
    """An export that differs from PyTorch fails its step; the module that it goes wrong in is named."""
    model = (recipe.parent / "model.py").read_text()
    answer = "return torch.relu(self.norm(self.project(values)))"
    traced = "torch.relu(self.norm(self.project(values)) * (3.0 if torch.compiler.is_compiling() else 1.0))"
    assert answer in model
    model = model.replace(answer, f"return {traced}", 1)
    (recipe.parent / "model.py").write_text(model)
    found = mmdeploy_command("debug", recipe, "left", "--set", "data.evaluation=null", "--set", "gates=[]")
    assert found.returncode == 1, found.stdout + found.stderr
    told = found.stdout.replace("\n", " ")
    assert "left/export: the exported graph against PyTorch: " in told and "leaves its tolerance" in told
    assert "the step failed, and this is the graph that it refused" in told.replace("  ", " ")
    assert (
        "left/quantize: the INT8 graph" in told
        and "not compared: it was not built, for left/export failed" in told.replace("  ", " ")
    )


def test_random_values_stand_in_for_data_that_the_recipe_does_not_name(mmdeploy_command, recipe):
    towers = [f"components.{side}.{key}=null" for side in ("left", "right") for key in ("quantize", "keep")]
    nothing = ("data.calibration=null", "data.evaluation=null", "gates=[]", *towers)
    options = [part for entry in nothing for part in ("--set", entry)]
    found = mmdeploy_command("debug", recipe, "fusion", *options, "--min-sqnr-db", "50")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "fusion on 16 samples of random values, for the recipe names no data" in found.stdout


def test_elements_can_be_judged_instead(mmdeploy_command, recipe):
    found = mmdeploy_command("debug", recipe, "left", "--rtol", "1e-4", "--atol", "1e-6")
    assert found.returncode == 1
    assert "values, rounded leaves its tolerance" in found.stdout.replace("\n", " ")
    assert "--compare simple --rtol 0.0001 --atol 1e-06" in found.stdout


def test_an_unknown_component_shows_the_nearest(mmdeploy_command, recipe):
    found = mmdeploy_command("debug", recipe, "lefd")
    assert found.returncode == 2
    assert "no component is called 'lefd'; did you mean 'left'?" in found.stderr


def test_two_kinds_of_tolerance_exclude_each_other(mmdeploy_command, recipe):
    found = mmdeploy_command("debug", recipe, "left", "--rtol", "1e-3", "--min-sqnr-db", "20")
    assert found.returncode == 2 and "exclude each other" in found.stderr


def test_without_polygraphy_it_says_what_to_install(recipe, monkeypatch, tmp_path):
    from mmdeploy import api
    from mmdeploy.building.settings import Settings
    from mmdeploy.debugging import run
    from mmdeploy.recipe.loader import load_recipe

    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentUnfitError, match="polygraphy is not installed") as caught:
        api.debug(load_recipe(recipe), "left", Settings(workdir=tmp_path / "w"))
    assert caught.value.exit_code == 4 and "multimodal-deploy[build]" in str(caught.value.hint)
    assert not (tmp_path / "w").exists()
