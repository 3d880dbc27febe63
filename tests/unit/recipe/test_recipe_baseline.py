"""The baseline that a recipe names: what of it is found without building."""

import json
from pathlib import Path

import pytest
from report_samples import passed

from mmdeploy.baseline.accepted import trimmed
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.recipe.json_schema import json_schema
from mmdeploy.recipe.loader import load_recipe

GATES = "gates:\n"


def write_baseline(folder: Path, name: str = "spoken") -> None:
    report = passed()
    named = report.model_copy(update={"recipe": report.recipe.model_copy(update={"name": name})})
    (folder / "baseline.json").write_text(trimmed(named).to_json())


@pytest.fixture
def with_baseline(edited):  # type: ignore[no-untyped-def]
    def write(section: str) -> Path:
        recipe = edited((GATES, f"baseline: {{{section}}}\n{GATES}"))
        write_baseline(recipe.absolute().parent)
        (recipe.absolute().parent / "other").mkdir()
        write_baseline(recipe.absolute().parent / "other", "other")
        (recipe.absolute().parent / "text.json").write_text("[]")
        return recipe

    return write


@pytest.mark.parametrize(
    ("section", "place", "message"),
    [
        ("file: baselin.json, max_size_ratio: 1", "baseline.file", "did you mean 'baseline.json'?"),
        ("file: other, max_size_ratio: 1", "baseline.file", "is not a file"),
        ("file: text.json, max_size_ratio: 1", "baseline.file", "'text.json' is no report of a build"),
        ("file: other/baseline.json, max_size_ratio: 1", "baseline.file",
         "is the baseline of 'other', and this recipe is 'spoken'"),
        ("file: baseline.json", "baseline", "give at least one limit: max_drop, max_relative_drop, min_gain"),
        ("file: baseline.json, max_size_rato: 1", "baseline.max_size_rato", "did you mean 'max_size_ratio'?"),
        ("file: baseline.json, max_drop: -1", "baseline.max_drop", "must be at least 0"),
        ("file: baseline.json, max_drop: 0.1", "baseline.max_drop",
         "no gate measures it: add one with `method: accuracy`"),
        ("file: baseline.json, max_latency_ratio: 1.1", "baseline.max_latency_ratio",
         "no gate measures it: add one with `method: latency`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_line(with_baseline, problems, section, place, message):  # type: ignore[no-untyped-def]
    recipe = with_baseline(section)
    (found,) = problems(recipe)
    line = 1 + recipe.read_text().splitlines().index(f"baseline: {{{section}}}")
    assert found[0] == f"recipe.yaml:{line} {place}"
    assert message in found[1]


def test_it_needs_gates(with_baseline, problems):  # type: ignore[no-untyped-def]
    recipe = with_baseline("file: baseline.json, max_size_ratio: 1.05")
    (found,) = problems(recipe, "gates=[]")
    assert "spoken has no gates: nothing of it is measured" in found[1]


def test_it_is_told_by_validate_and_plan(with_baseline, capsys):  # type: ignore[no-untyped-def]
    recipe = with_baseline("file: baseline.json, max_size_ratio: 1.05")
    assert load_recipe(recipe).baseline.limits == {"max_size_ratio": 1.05}
    assert run(commands, ["validate", str(recipe)]) == 0
    assert "baseline  baseline.json, max_size_ratio 1.05" in capsys.readouterr().out
    assert run(commands, ["plan", str(recipe)]) == 0
    assert capsys.readouterr().out.endswith("judged by its gates, and against baseline.json, max_size_ratio 1.05\n")
    assert run(commands, ["plan", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"]["max_size_ratio"] == 1.05
    content = json.loads(Path("baseline.json").read_text())
    Path("baseline.json").write_text(json.dumps({**content, "schema_version": 99}))
    assert run(commands, ["validate", str(recipe)]) == 2
    assert "schema version 99, written by a newer mmdeploy" in capsys.readouterr().err


def test_a_recipe_without_it_plans_the_same(sample, capsys):  # type: ignore[no-untyped-def]
    assert run(commands, ["plan", str(sample), "--json"]) == 0
    assert [*json.loads(capsys.readouterr().out)] == ["schema_version", "recipe", "steps"]


def test_a_variant_names_one_from_its_own_folder(sample):  # type: ignore[no-untyped-def]
    Path("variants").mkdir()
    write_baseline(Path("variants"))
    variant = Path("variants") / "small.yaml"
    variant.write_text("base: ../recipe.yaml\nbaseline: {file: baseline.json, max_size_ratio: 1.1}\n")
    assert str(load_recipe(variant).baseline.file) == "variants/baseline.json"


def test_the_schema_of_editors_knows_it():  # type: ignore[no-untyped-def]
    section = json_schema()["$defs"]["Baseline"]
    assert section["required"] == ["file"] and "max_latency_ratio" in section["properties"]
