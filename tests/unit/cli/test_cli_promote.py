"""``mmdeploy promote``: the limits of a canary. Promoting itself is tested with a real Triton."""

import dataclasses

import pytest

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.cli.promote import command
from mmdeploy.rollout.canary import Limits

URL = "http://localhost:8000"


def test_each_limit_is_an_option_that_shows_its_default() -> None:
    shown = {one.name: one.show_default for one in command.params if hasattr(one, "show_default")}
    assert {name: shown[name] for name in dataclasses.asdict(Limits())} == {
        name: str(limit) for name, limit in dataclasses.asdict(Limits()).items()
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--max-failures 1.5", "'--max-failures'"),
        ("--max-failures nan", "'--max-failures'"),
        ("--max-failures -0.1", "'--max-failures'"),
        ("--max-p95-ratio 0", "'--max-p95-ratio'"),
        ("--max-p95-ratio inf", "'--max-p95-ratio'"),
        ("--shadow --min-agreement 1.01", "'--min-agreement'"),
        ("--min-agreement 0.5", "--min-agreement is for --shadow"),
    ],
)
def test_a_limit_that_is_none(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["promote", URL, "--canary", "0.1", *words.split()]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--max-failures 0.1", "--shadow", f"--shadow --gateway {URL} --min-agreement 0.5"])
def test_what_is_for_a_canary_wants_one(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["promote", URL, *words.split()]) == 2
    options = " and ".join(word for word in words.split() if word.startswith("--"))
    assert f"{options}: for --canary SHARE" in capsys.readouterr().err
