"""A recipe's LoRA adapters: what is wrong with a folder is told with its line, and PEFT is asked for before a build."""

import json
import sys
from pathlib import Path

import pytest

from mmdeploy.building.environment import require_environment
from mmdeploy.core.errors import EnvironmentUnfitError, RecipeError
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.recipe.loader import load_recipe

NAMED = "model.adapters={left: lora}"


@pytest.fixture
def lora(tiny_recipe: Path) -> Path:
    folder = tiny_recipe.with_name("lora")
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").touch()
    return folder


def problem(recipe: Path) -> str:
    with pytest.raises(RecipeError) as told:
        load_recipe(recipe)
    [found] = told.value.problems
    assert found.where == f"{recipe}:5 model.adapters.left"
    return found.message


def test_a_folder_that_is_no_adapter_is_told_with_its_line(tiny_recipe: Path, lora: Path) -> None:
    tiny_recipe.write_text(tiny_recipe.read_text().replace("  factory:", "  adapters: {left: lora}\n  factory:", 1))
    assert load_recipe(tiny_recipe).model.adapters == {"left": Path("lora")}
    (lora / "adapter_model.safetensors").rename(lora / "model.safetensors")
    assert "neither adapter_model.safetensors nor adapter_model.bin" in problem(tiny_recipe)
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    assert "of the kind IA3, and only LORA is merged" in problem(tiny_recipe)
    (lora / "adapter_config.json").unlink()
    assert "there is no adapter_config.json in " in problem(tiny_recipe)
    lora.rename(lora.with_name("other"))
    assert "is not there" in problem(tiny_recipe)


def test_a_variant_names_an_adapter_from_its_own_folder(tiny_recipe: Path, lora: Path) -> None:
    variants = tiny_recipe.with_name("variants")
    variants.mkdir()
    lora.rename(variants / "lora")
    (variants / "adapted.yaml").write_text("base: ../recipe.yaml\nname: adapted\nmodel: {adapters: {left: lora}}\n")
    assert load_recipe(variants / "adapted.yaml").model.adapters == {"left": Path("variants/lora")}


def test_peft_is_asked_for_before_anything_runs(tiny_recipe: Path, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    plain = load_recipe(tiny_recipe, ["gates=[]"])
    require_environment(plain, make_plan(plain, take_fingerprints(plain)).steps)
    recipe = load_recipe(tiny_recipe, ["gates=[]", NAMED])
    require_environment(recipe, [])  # everything is reused
    with pytest.raises(EnvironmentUnfitError, match=r"peft \(for model\.adapters\)") as told:
        require_environment(recipe, make_plan(recipe, take_fingerprints(recipe)).steps)
    assert told.value.hint == "pip install 'multimodal-deploy[adapters]'"
