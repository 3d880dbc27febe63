"""What README, the pages and the help of verbs show is what the program takes: shell, YAML, Python, JSON and TOML."""

import ast
import itertools
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from documented_blocks import PAGES, REPOSITORY, Block, blocks, calls, inline_commands
from jsonschema.exceptions import best_match

from mmdeploy.cli import commands
from mmdeploy.recipe.json_schema import json_schema

LANGUAGES = {"sh", "yaml", "python", "json", "toml"}
#: Drawings, and what a program prints.
SHOWN = {"", "text"}
#: Programs that are not ours: what they are told is theirs to check.
FOREIGN = {
    "apt-get",
    "cd",
    "chmod",
    "curl",
    "docker",
    "eval",
    "git",
    "hf",
    "kubectl",
    "model_signing",
    "openssl",
    "source",
}
#: Every block that says why it is not checked; a new one has to be put here by hand.
UNCHECKED = {"docs/deployment.md": 1, "docs/howto_kubernetes.md": 1}
#: Site only: the toctree of its first page.
TOCTREES = {"docs/index.md"}
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
DEFINITIONS = json_schema()["$defs"]


def name(block: Block) -> str:
    return str(block)


def checked(*languages: str) -> list[Block]:
    return [block for block in blocks(*languages) if not block.unchecked]


def test_every_block_says_what_it_is_and_what_is_not_checked_is_counted() -> None:
    found = [block for block in blocks() if block.page not in TOCTREES]
    assert [str(block) for block in found if block.language not in LANGUAGES | SHOWN] == []
    reasons = [block.page for block in found if block.unchecked]
    assert {page: reasons.count(page) for page in reasons} == UNCHECKED
    assert len(checked("sh")) > 50 and len(checked("yaml")) > 20 and len(checked("python")) > 10


def test_every_page_has_its_place_on_the_site() -> None:
    toctree = (REPOSITORY / "docs" / "index.md").read_text()
    pages = {path.stem for path in (REPOSITORY / "docs").glob("*.md")} - {"index"}
    assert pages - {*re.findall(r"^[\w-]+$", toctree, re.MULTILINE)} == set(), "put them into docs/index.md"


@pytest.mark.parametrize("recipe", sorted(path.name for path in (REPOSITORY / "recipes").iterdir()))
def test_the_gallery_shows_each_recipe_with_its_figures_and_a_picture(recipe: str) -> None:
    parts = (REPOSITORY / "docs" / "gallery.md").read_text().split("\n## ")
    told = next(part for part in parts if part.startswith(f"{recipe}\n"))
    assert f"](../recipes/{recipe}/README.md)" in told and re.search(r"\d (%|top)|0\.\d", told)
    picture = re.search(r"!\[.+\]\(\.\./(.+\.png)\)", told)
    assert picture is not None and (REPOSITORY / picture[1]).is_file()


@pytest.mark.parametrize("block", [block for block in blocks() if block.language in SHOWN], ids=name)
def test_what_is_shown_is_not_something_to_run(block: Block) -> None:
    assert not re.search(r"^\s*\$?\s*(mmdeploy|pip|python|curl|ci/\w+) ", block.text, re.MULTILINE), "call it sh"


@pytest.mark.parametrize("block", checked("sh"), ids=name)
def test_shell_calls_what_there_is(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in calls(block):
        program, *arguments = [*itertools.dropwhile(re.compile(r"[A-Z_]+=").match, call)]
        if program == "mmdeploy":
            parse(arguments, monkeypatch)
        elif program == "pip":
            extras = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
            assert all(extra in EXTRAS for found in extras for extra in found.split(",")), call
        elif program in ("python", "pytest"):
            script(arguments)
        elif program == ".":
            assert arguments == [".venv/bin/activate"]
        elif program.startswith("ci/"):
            assert (REPOSITORY / program).stat().st_mode & 0o100, call
        else:
            assert program in FOREIGN, f"{program}: what is it?"


def parse(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the command line read what a page shows, without doing it."""
    command: click.Command = commands
    context = click.Context(commands, info_name="mmdeploy")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        below = command.get_command(context, arguments[0])
        assert below is not None, f"there is no verb {arguments[0]}"
        command, arguments = below, arguments[1:]
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            monkeypatch.setattr(parameter.type, "exists", False)  # what a page names is its reader's
    if not isinstance(command, click.Group):
        command.make_context(command.name, arguments).close()  # its options end with it


def script(arguments: list[str]) -> None:
    """Hold the call of a script of the repository against the script."""
    path = REPOSITORY / arguments[0]
    assert path.exists(), arguments
    if path.is_file():
        source = path.read_text()
        assert [one for one in arguments[1:] if one.startswith("--") and one not in source] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_in_sentences_have_the_options_that_they_name(page: Path) -> None:
    for where, words in inline_commands():
        if where != str(page.relative_to(REPOSITORY)):
            continue
        command: click.Command | None = commands
        context = click.Context(commands, info_name="mmdeploy")
        for word in words[1:]:
            if isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word) and not word.startswith("-"):
                command = command.get_command(context, word)
                assert command is not None, f"{where}: there is no verb {word!r}"
        assert command is not None
        known = {option for one in command.get_params(context) for option in (*one.opts, *one.secondary_opts)}
        told = [word for word in words[1:] if re.fullmatch(r"--[a-z][\w-]*", word)]
        assert [word for word in told if word not in known | {"--help"}] == [], (where, words)


@pytest.mark.parametrize("block", checked("yaml"), ids=name)
def test_yaml_is_a_recipe_or_a_part_of_one(block: Block) -> None:
    content = yaml.safe_load(block.text)
    if isinstance(content, list):
        content = {"gates": content}
    properties = DEFINITIONS["Recipe"]["properties"]
    assert {*content} <= {*properties}, "neither a recipe nor a part of one"
    if "base" in content:
        validate(content, "#/$defs/Variant.Recipe")
    elif {"components", "inputs", "outputs", "schema_version"} <= {*content}:
        validate(content, "#/$defs/Recipe")
    else:
        for key, value in content.items():  # of a component a part is shown
            part = "Variant.Recipe" if key == "components" else "Recipe"
            validate(value, f"#/$defs/{part}/properties/{key}")


def validate(content: Any, reference: str) -> None:
    found = jsonschema.Draft202012Validator({"$ref": reference, "$defs": DEFINITIONS}).iter_errors(content)
    error = best_match(found)
    assert error is None, f"{error.json_path}: {error.message[:300]}"


def test_a_wrong_key_of_a_part_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        validate({"fusion": {"quantise": {}}}, "#/$defs/Variant.Recipe/properties/components")
    with pytest.raises(AssertionError):
        validate([{"method": "memory", "max_rss_gib": 2.0}], "#/$defs/Recipe/properties/gates")


@pytest.mark.parametrize("block", checked("python"), ids=name)
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", checked("json", "toml"), ids=name)
def test_json_and_toml_can_be_read(block: Block) -> None:
    if block.language == "toml":
        assert tomllib.loads(block.text)
        return
    try:
        json.loads(block.text)
    except json.JSONDecodeError:
        assert [json.loads(line) for line in block.text.splitlines()]  # an object a line
