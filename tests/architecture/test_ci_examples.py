"""The examples for CI systems: what they run is what the command line takes."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from mmdeploy.cli import commands

EXAMPLES = sorted((Path(__file__).parents[2] / "ci" / "examples").glob("*.yml"))
COMMAND = re.compile(r"^\s*mmdeploy\s.+", re.MULTILINE)


def scripts(value: object) -> list[str]:
    """Return the shell lines of a pipeline: what stands under ``run`` or ``script``."""
    if isinstance(value, dict):
        own = [one for key in ("run", "script") for one in ([value[key]] if isinstance(value.get(key), str) else [])]
        listed = [one for one in value.get("script", []) if isinstance(one, str)] if "script" in value else []
        return own + listed + [line for part in value.values() for line in scripts(part)]
    return [line for part in value for line in scripts(part)] if isinstance(value, list) else []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_commands_are_ones_that_there_are(path: Path) -> None:
    found = [line for script in scripts(yaml.safe_load(path.read_text())) for line in COMMAND.findall(script)]
    assert {shlex.split(line)[1] for line in found} >= {"build", "gate", "compare"}
    for line in found:
        _, verb, *arguments = shlex.split(line.partition(" >")[0])
        command = commands.get_command(click.Context(commands), verb)
        assert command is not None
        command.make_context(verb, arguments).close()  # refuses options and arguments that it does not know


def test_a_command_that_there_is_not_would_be_seen() -> None:
    command = commands.get_command(click.Context(commands), "gate")
    assert command is not None
    with pytest.raises(click.UsageError):
        command.make_context("gate", ["--baseline", "b.json", "--no-such-option"])
    assert EXAMPLES
