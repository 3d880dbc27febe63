"""Every verb speaks as the others do: quiet, talkative, for people and for programs, in 80 columns."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from mmdeploy.cli import VERBS, commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import EXIT_PASS, EXIT_USAGE

REPOSITORY = Path(__file__).parents[2]
#: What each verb says of itself where nothing is there, as it needs neither a build nor a server for that; by verb,
#: the words that have it answer, and the lines that --quiet leaves.
ANSWERS = {
    "validate": ("recipes/spoken_digits", r""),
    "plan": ("recipes/spoken_digits --workdir {0}/work", r"(\S+/\S+\n)+"),
    "releases": ("--output {0}", r""),
    "gc": ("--output {0} --workdir {0}/work", r""),
    "lint": ("{0}", None),
    "list": ("gates", r"(gates\.\w+\n)+"),
    "schema": ("", None),
    "doctor": ("--workdir {0}", None),
}


def leaves() -> Iterator[tuple[str, click.Command]]:
    """Give every command that does something, by its words."""
    context = click.Context(commands)
    for verb in VERBS:
        command = commands.get_command(context, verb)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{verb} {name}", one) for name, one in command.commands.items())
        yield verb, command


LEAVES = dict(leaves())


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("words", LEAVES)
def test_every_verb_can_be_quiet_and_talkative_and_speak_json(words: str) -> None:
    found = {option: one for one in LEAVES[words].params for option in one.opts}
    assert {"--json", "--quiet", "-q", "--verbose", "-v"} <= set(found)
    quiet = found["--quiet"]
    assert isinstance(quiet, click.Option) and quiet.help is not None
    assert re.match(r"Print (only (?!nothing)|nothing)", quiet.help)


@pytest.mark.parametrize("words", ["", *LEAVES])
def test_help_fits_80_columns(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, [*words.split(), "--help"]) == EXIT_PASS
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("words", LEAVES)
def test_an_error_is_a_document_too_and_is_told_in_words(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, [*words.split(), "--json", "--no-such-option"]) == EXIT_USAGE
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["schema_version"] == 1
    assert told["error"] == {
        "kind": "UsageError",
        "message": told["error"]["message"],
        "exit_code": EXIT_USAGE,
        "hint": f"mmdeploy {words} --help shows what is accepted",
    }
    assert "--no-such-option" in told["error"]["message"]
    assert err == f"error: {told['error']['message']}\nhint: {told['error']['hint']}\n"


@pytest.mark.parametrize("verb", ANSWERS)
def test_an_answer_is_text_or_one_document_or_what_a_script_needs(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, quiet = ANSWERS[verb]
    argv = [verb, *words.format(tmp_path).split()]
    code = run(commands, argv)
    text, _ = capsys.readouterr()
    assert run(commands, [*argv, "--json"]) == code
    out, err = capsys.readouterr()
    told = json.loads(out)
    if code not in (EXIT_PASS, EXIT_USAGE):
        assert "error" not in told
    assert err == "" or "error" in told
    assert told.get("schema_version") == 1 or "$schema" in told
    assert run(commands, [*argv, "--quiet"]) == code
    brief, err = capsys.readouterr()
    assert len(brief) <= len(text)
    assert quiet is None or re.fullmatch(quiet, brief)
    assert run(commands, ["--quiet", *argv]) == code, "the options may stand before the verb"
    assert capsys.readouterr() == (brief, err)


def test_verbose_may_stand_on_either_side_and_is_over_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mmdeploy")
    seen: list[int] = []
    command = click.Command("verb", callback=lambda: seen.append(logger.getEffectiveLevel()))
    command.params += LEAVES["schema"].params
    group = click.Group("mmdeploy", commands=[command], params=[*commands.params])
    before = logger.level
    for argv in (["-v", "verb"], ["verb", "-v"], ["verb", "-vv"], ["verb", "-q"], ["verb", "-q", "-v"]):
        assert run(group, argv) == EXIT_PASS
        assert logger.level == before
    assert seen == [logging.INFO, logging.INFO, logging.DEBUG, logging.ERROR, logging.INFO]


def started(*argv: str, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "mmdeploy", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


def test_a_terminal_of_another_encoding_gets_words_it_can_show() -> None:
    text, errors = started("list", PYTHONIOENCODING="latin-1", PYTHONUTF8="0").communicate()
    assert errors == b"" and b" ..." in text and text.isascii()
    document, errors = started("list", "--json", PYTHONIOENCODING="latin-1", PYTHONUTF8="0").communicate()
    assert errors == b"" and len(json.loads(document)["methods"]) > 20


@pytest.mark.parametrize("option", [(), ("--json",)], ids=str)
def test_a_full_disk_behind_standard_output_is_no_bug(option: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mmdeploy", "list", *option], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, b"error: cannot write: No space left on device")


@pytest.mark.parametrize("argv", [("list", "--json"), ("schema",)], ids=" ".join)
def test_a_reader_that_has_seen_enough_ends_it_without_a_word(argv: tuple[str, ...]) -> None:
    process = started(*argv)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("typed", "incomplete", "offered"),
    [
        ([], "re", {"report", "releases"}),
        (["build"], "recipes/spoken", {"recipes/spoken_digits"}),
        (["debug", "recipes/spoken_digits"], "", {"image_encoder", "audio_encoder", "fusion"}),
        (["explain", "{0}"], "", {"parity", "latency"}),
        (["explain", "{0}/nowhere"], "par", {"par"}),
        (["list"], "gates.par", {"gates.parity"}),
        (["rollback", "--output", "{0}"], "", {""}),
        (["build", "recipe.yaml"], "--no", {"--no-cache"}),
    ],
)
def test_shells_complete_what_can_be_known(
    typed: list[str], incomplete: str, offered: set[str], tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"gates": [{"gate": "parity"}, {"gate": "latency"}] * 2}))
    shell = ShellComplete(commands, {}, "mmdeploy", "_MMDEPLOY_COMPLETE")
    found = shell.get_completions([word.format(tmp_path) for word in typed], incomplete)
    assert {one.value for one in found} == offered
