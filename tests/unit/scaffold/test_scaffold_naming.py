"""Names that init proposes are accepted and tell things apart, whatever the model calls its parts."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mmdeploy.cli.text import counted
from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.declared import SIZE_PATTERN
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import MODULE_PATTERN, NAME_PATTERN
from mmdeploy.recipe.wiring import MARK
from mmdeploy.scaffold.files import write_files
from mmdeploy.scaffold.naming import accepted, identifier, of_size, unused
from mmdeploy.scaffold.own_model import Sources, find, texts_of

#: Parts are called by places in lists of names, so that any name is one of a module, an argument or an answer.
MODEL = """
import torch
from torch import nn

PARTS, ARGUMENTS, ANSWERS = {parts!r}, {arguments!r}, {answers!r}


class Tower(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer, self.layer = answer, nn.Linear(4, 8)

    def forward(self, values):
        return {{self.answer: self.layer(values).relu()}}


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        for name, answer in zip(PARTS, ANSWERS):
            self.add_module(name, Tower(answer))

    def forward(self, **given):
        towers = [getattr(self, name) for name in PARTS]
        made = [tower(given[name]) for tower, name in zip(towers, ARGUMENTS)]
        return {{f"{{answer}} {{index}}": one[answer] for index, (one, answer) in enumerate(zip(made, ANSWERS))}}


def build():
    return Both()
"""
DATA = """
import numpy as np

def samples():
    random = np.random.default_rng(0)
    for index in range(12):
        yield {{name: random.random(4, np.float32) for name in {arguments!r}}}
"""
ARGUMENTS = ("größe", "text")


def proposed(
    folder: Path, parts: tuple[str, ...], arguments: tuple[str, ...] = ARGUMENTS, answers: tuple[str, ...] = ("e", "e")
) -> tuple[dict[str, Any], str, list[str]]:
    """Have a recipe proposed and written; return what it says, its text, and the marked places."""
    names = {"parts": parts, "arguments": arguments, "answers": answers}
    (folder / "model.py").write_text(MODEL.format(**names), encoding="utf-8")
    (folder / "data.py").write_text(DATA.format(**names), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    found = find(Sources(str(folder / "model.py:build"), str(folder / "data.py:samples"), output=recipe))
    choice = found.choose([*parts])
    write_files(texts_of(found, choice), force=True)
    text = recipe.read_text(encoding="utf-8")
    return yaml.safe_load(text), text, [str(gap) for gap in choice.proposal.wiring.gaps]


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (("2d", "class"), ["2d", "class"]),
        (("null", "on"), ["null", "on"]),
        (("1e3", "_x"), ["1e3", "_x"]),
        (("Text", "text_"), ["Text", "text_"]),
        (("text", "TEXT"), ["text", "TEXT_2"]),
    ],
)
def test_names_that_are_accepted_stay_and_the_recipe_is_valid(
    tmp_path: Path, parts: tuple[str, ...], names: list[str]
) -> None:
    fields, text, marked = proposed(tmp_path, parts)
    assert [*fields["components"]] == names
    assert [part["module"] for part in fields["components"].values()] == [*parts]
    assert (marked, MARK in text) == ([], False)
    load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (("größe", "grosse"), ["grosse_grosse", "grosse_text"]),
        (("a b", "a_b"), ["a_b_grosse", "a_b_text"]),
        (("a b", "A/B"), ["a_b", "A_B_2"]),
        (("Œuvre d'été", "smörgås"), ["OEuvre_d_ete", "smorgas"]),
        (("图像", "текст"), ["tower_grosse", "tower_text"]),
        (("-x", "x"), ["x_grosse", "x_text"]),
        (("x" * 300, "y"), ["x" * 100, "y"]),
    ],
)
def test_a_component_of_a_module_with_another_name_gets_one_that_is_accepted(
    tmp_path: Path, parts: tuple[str, ...], names: list[str]
) -> None:
    fields, text, marked = proposed(tmp_path, parts)
    assert [*fields["components"]] == names
    assert [part["module"] for part in fields["components"].values()] == [*parts], "where the model has it"
    refused = [name for name in parts if not re.fullmatch(MODULE_PATTERN, name)]
    assert [mark.partition(", and")[0].partition(" is ")[2] for mark in marked] == [repr(name) for name in refused]
    assert text.count(f"# {MARK}: ") == len(refused)
    if not refused:
        load_recipe(tmp_path / "recipe.yaml")
        return
    with pytest.raises(RecipeError) as told:
        load_recipe(tmp_path / "recipe.yaml")
    assert told.value.message.count("the attribute path of a submodule") == len(refused)
    assert "a name of letters" not in told.value.message


def test_a_marked_module_says_what_to_do(tmp_path: Path) -> None:
    _, text, _ = proposed(tmp_path, ("größe", "text"))
    before, _, after = text.partition(f"# {MARK}: grosse.module is 'größe'")
    assert before.endswith("components:\n  ")
    assert "# Rename it in the model, and in the names of its weights; then run init again.\n  grosse:" in after


def test_an_answer_without_a_name_is_marked(tmp_path: Path) -> None:
    fields, text, marked = proposed(tmp_path, ("left", "right"), answers=("", "e"))
    assert marked == ["left.return has '' as a key, which is no name"]
    assert f"# {MARK}: left.return has ''" in text
    assert all(wire["tensor"] for part in fields["components"].values() for wire in part["outputs"].values())


def test_an_answer_with_the_name_of_an_argument_is_marked(tmp_path: Path) -> None:
    _, _, marked = proposed(tmp_path, ("left", "right"), answers=("values", "e"))
    assert marked == ["left.return has 'values' as a key, and its forward takes an argument of that name"]
    with pytest.raises(RecipeError, match="'values' is an input of the component as well"):
        load_recipe(tmp_path / "recipe.yaml")


def test_an_answer_by_place_has_another_name_than_the_arguments(tmp_path: Path) -> None:
    model = MODEL.format(parts=("left", "right"), arguments=ARGUMENTS, answers=("e", "e"))
    model = model.replace("forward(self, values)", "forward(self, output)").replace("one[answer]", "one")
    (tmp_path / "model.py").write_text(model.replace("{self.answer: self.layer(values).relu()}", "self.layer(output)"))
    (tmp_path / "data.py").write_text(DATA.format(arguments=ARGUMENTS))
    found = find(
        Sources(str(tmp_path / "model.py:build"), str(tmp_path / "data.py:samples"), output=tmp_path / "r.yaml")
    )
    write_files(texts_of(found, found.choose(["left", "right"])), force=True)
    components = load_recipe(tmp_path / "r.yaml").components
    assert [([*part.inputs], [*part.outputs]) for part in components.values()] == [(["output"], ["output_2"])] * 2


def is_a_module_s(name: str) -> bool:
    from torch import nn

    return "." not in name and not hasattr(nn.Module(), name)


WRITABLE = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"))
MODULES = st.text(WRITABLE, min_size=1, max_size=12).filter(is_a_module_s)
NAMES = st.text(WRITABLE, min_size=1, max_size=12)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # torch.fx writes names as code
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(MODULES, min_size=2, max_size=2, unique=True).map(tuple),
    st.lists(NAMES, min_size=2, max_size=2, unique=True).map(tuple),
    st.lists(NAMES, min_size=2, max_size=2).map(tuple),
)
@example(("größe", "a b"), ("2d", "class"), ("a b", "a b"))
@example(("\xa0", "0"), ("\xa0", "0"), ("\xa0", "values"))
@example(("~", "no"), ("- x", "# y"), ("{", "a: b"))
def test_whatever_names_a_model_has_only_its_modules_paths_are_refused(
    tmp_path: Path, parts: tuple[str, ...], arguments: tuple[str, ...], answers: tuple[str, ...]
) -> None:
    fields, _, marked = proposed(tmp_path, parts, arguments, answers)
    assert [part["module"] for part in fields["components"].values()] == [*parts]
    assert [*fields["inputs"]] == [*arguments]
    assert [[*part["outputs"]] for part in fields["components"].values()] == [[name] for name in answers]
    refused = [name for name in parts if not re.fullmatch(MODULE_PATTERN, name)]
    refused += [name for name in answers if name == "values"]
    assert len(marked) == len(refused)
    if not refused:
        load_recipe(tmp_path / "recipe.yaml")
        return
    with pytest.raises(RecipeError) as told:
        load_recipe(tmp_path / "recipe.yaml")
    assert told.value.message.startswith(f"{counted(len(refused), 'problem')} in the recipe"), told.value.message


@given(st.text(), st.text())
def test_names_of_components_sizes_and_recipes_are_accepted(text: str, other: str) -> None:
    assert re.fullmatch(NAME_PATTERN, accepted(text, "part"))
    assert re.fullmatch(NAME_PATTERN, identifier(text))
    assert re.fullmatch(SIZE_PATTERN, f"{of_size(text)}_length")
    taken = [accepted(other, "part")]
    assert unused(accepted(text, "part"), taken, folded=True).casefold() != taken[0].casefold()
