"""Writes the pages that the program itself tells: one a verb, one a section of the recipe, one a method.

`docs/conf.py` calls it for each build of the site. What is written lies in ``docs/reference``, which git ignores: a
page can say nothing that is out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from reference_schema import Reference, cell, prose

from mmdeploy.cli import VERBS, commands
from mmdeploy.cli.list import SECTIONS
from mmdeploy.preprocess import METHODS as STEPS
from mmdeploy.recipe.json_schema import json_schema
from mmdeploy.recipe.schema import REGISTRIES

#: Where the methods of a section stand in a recipe.
PLACES = {name: place.replace("<name>", "NAME") for name, place in SECTIONS.items() if name != "serving"}
_MEASURED = (
    "Figures with the machine and the day that they are of; [benchmarks](../../benchmarks/README.md) says how each is",
    "measured again.",
)


def write_pages(folder: Path) -> None:
    """Write all pages; one that would be the same is left alone, and one that nothing tells any more goes."""
    pages = dict(_pages())
    for path in sorted(folder.rglob("*.md")):
        if str(path.relative_to(folder)) not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def _pages() -> Iterator[tuple[str, str]]:
    yield from _verbs()
    reference = Reference(json_schema()["$defs"])
    yield from reference.section_pages()
    yield from _methods(reference)
    yield "measured.md", "\n".join(["# Measured", "", *_MEASURED, "", *_results()])


def _verbs() -> Iterator[tuple[str, str]]:
    above = click.Context(commands, info_name="mmdeploy")
    lines = ["# The verbs", "", "In the order of a user's day. `mmdeploy VERB --help` says the same on a terminal.", ""]
    for verb, line in VERBS.items():
        lines.append(f"- [`mmdeploy {verb}`]({verb}.md): {prose(line)}")
        command = commands.get_command(above, verb)
        assert command is not None
        yield f"verbs/{verb}.md", "\n".join(_command(command, click.Context(command, above, verb), "#"))
    yield "verbs/index.md", "\n".join([*lines, *_toctree(VERBS)])


def _command(command: click.Command, context: click.Context, mark: str) -> Iterator[str]:
    """Tell of a verb, and of the verbs below it."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from (f"{mark} {context.command_path}", "", "```text", usage, "```", "", *_help(command.help or ""))
    if options := [one for one in command.get_params(context) if isinstance(one, click.Option) and not one.hidden]:
        yield from ("| option | | default |", "|---|---|---|")
        yield from (_option(one, context) for one in options)
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _command(below, click.Context(below, context, name), f"{mark}#")


def _help(text: str) -> Iterator[str]:
    """Give a verb's help, with its examples as a block of shell."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        first, *others = paragraph.removeprefix("\b\n").splitlines()
        if paragraph.startswith("\b"):
            yield from (prose(first), "", "```sh", *(line.removeprefix("  ") for line in others), "```", "")
        else:
            yield from (prose(" ".join(line.strip() for line in (first, *others))), "")


def _option(option: click.Option, context: click.Context) -> str:
    told: dict[str, Any] = option.get_help_extra(context)
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag or option.count else f" {cell(f'`{option.make_metavar(context)}`')}"
    text = cell(option.help or "") + (" Must be there." if option.required else "")
    variables = told.get("envvars", ()) or ((option.envvar,) if isinstance(option.envvar, str) else ())
    text += "".join(f" Or by `{variable}`." for variable in variables)
    default = f"`{told['default']}`" if "default" in told else ""
    return f"| {names}{value} | {text} | {cell(default)} |"


def _methods(reference: Reference) -> Iterator[tuple[str, str]]:
    index = [
        "# The methods",
        "",
        "Passes, engines and gates by the place where a recipe names them. `mmdeploy list NAME`",
    ]
    index += ["says the same on a terminal; [yours](../../extending.md) stand beside them.", ""]
    names: list[str] = []
    for section, place in PLACES.items():
        index += [f"## {section}", "", prose(place), ""]
        known = STEPS if section == "preprocess" else REGISTRIES[section]
        for method in known:
            name = f"{section}.{method}"
            described = inspect.getdoc(inspect.getmodule(known[method]) if section == "preprocess" else known[method])
            text = (described or "").strip()
            index.append(f"- [{method}]({name}.md): {prose(' '.join(text.partition(chr(10) * 2)[0].split()))}")
            yield f"methods/{name}.md", "\n".join([f"# {name}", "", *_docstring(text), "", *reference.options(name)])
            names.append(name)
        index.append("")
    yield "methods/index.md", "\n".join([*index, *_toctree(names)])


def _docstring(text: str) -> Iterator[str]:
    """Give a docstring as Markdown: lists stay, and a block after two colons is code."""
    for paragraph in text.split("\n\n"):
        code = all(line.startswith("    ") for line in paragraph.splitlines())
        yield from (paragraph if code else prose(re.sub(r"::$", ":", paragraph)), "")


def _results() -> list[str]:
    """List what was measured, from the headings of the files."""
    return ["```{toctree}", ":glob:", ":maxdepth: 1", "", "../../benchmarks/results/*", "```", ""]


def _toctree(pages: Mapping[str, Any] | list[str]) -> list[str]:
    return ["", "```{toctree}", ":hidden:", "", *pages, "```", ""]
