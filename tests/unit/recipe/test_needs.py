"""What a recipe needs and is not there: one error with the command, in place of all that follows from it."""

from pathlib import Path

import pytest

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe

NEEDS = "needs: {weights: {path: checkpoint, command: hf download tiny --local-dir checkpoint}}\n"
MODEL = "  weights: checkpoint\n  files: [checkpoint/*.json]\n  adapters: {left: lora}\n  factory:"


@pytest.fixture
def needy(tiny_recipe: Path) -> Path:
    """The tiny recipe with a checkpoint that has to be fetched, and an adapter that is not there."""
    tiny_recipe.write_text(NEEDS + tiny_recipe.read_text().replace("  factory:", MODEL, 1))
    return tiny_recipe


def problems(recipe: Path, *overrides: str) -> dict[str, str]:
    with pytest.raises(RecipeError) as told:
        load_recipe(recipe, overrides)
    return {problem.where.rpartition(" ")[2]: problem.message for problem in told.value.problems}


def test_what_is_missing_is_told_once_with_the_command(needy: Path) -> None:
    found = problems(needy)
    assert {*found} == {"needs.weights.path", "model.adapters.left"}  # nothing of what lies in the checkpoint
    assert found["needs.weights.path"] == (
        f"{needy.parent}/checkpoint is not there: fetch it first, in {needy.parent}:\n"
        "      hf download tiny --local-dir checkpoint"
    )


def test_what_is_not_whole_is_told_with_the_command(needy: Path) -> None:
    (needy.parent / "checkpoint").mkdir()
    found = problems(needy, "model.adapters=null")
    fetches = f"; in {needy.parent} this fetches it: hf download tiny --local-dir checkpoint"
    assert {*found} == {"model.weights", "model.files.0"}
    assert all(message.endswith(fetches) for message in found.values())
    assert found["model.weights"].startswith("checkpoint: the folder holds no checkpoint; expected ")


def test_a_variant_needs_something_else_from_its_own_folder_or_nothing(needy: Path) -> None:
    (variants := needy.with_name("variants")).mkdir()
    variant = variants / "variant.yaml"
    begin = "base: ../recipe.yaml\nname: variant\nmodel: {adapters: null, files: null, weights: null}\n"
    variant.write_text(begin + "needs: null\n")
    assert load_recipe(variant).needs == {}
    variant.write_text(begin + "needs: {weights: {path: small, command: python small.py}}\n")
    assert problems(variant)["needs.weights.path"].startswith(f"{variants}/small is not there: fetch it first, in ")
    (variants / "small").mkdir()
    assert load_recipe(variant).needs["weights"].path == Path("variants/small")


def test_the_commands_say_it_with_the_exit_code_of_a_recipe(needy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("validate", "build"):
        assert run(commands, [verb, str(needy), "--set", "model.adapters=null"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: 1 problem in the recipe\n")
        assert error.endswith(":\n      hf download tiny --local-dir checkpoint\n")
    assert run(commands, ["validate", str(needy), "--set", "needs.weights.command=1"]) == 2
    assert "needs.weights.command" in capsys.readouterr().err
