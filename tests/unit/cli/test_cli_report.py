"""``mmdeploy report``: the report of a build again, in any form, with the build's exit code."""

import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mmdeploy.building import builder
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import EnvironmentUnfitError


@pytest.fixture
def stopped(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was stopped, in a work folder below the working directory."""

    def unfit(*_: object) -> None:
        raise EnvironmentUnfitError("no Triton here", hint="install one")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builder, "require_environment", unfit)
    assert run(commands, ["build", str(tiny_recipe)]) == 4
    return Path(".mmdeploy/runs/two_towers/latest")


def test_the_latest_run_is_shown_with_why_it_stopped(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(commands, ["report"]) == 4
    out, err = capsys.readouterr()
    assert err == ""
    assert "\ntwo_towers stopped: the build failed, the gates did not decide\nno Triton here\n" in out
    assert "\nnext: install one\nnext: read the log: .mmdeploy/runs/two_towers/" in out


@pytest.mark.parametrize(
    "argument", [".mmdeploy/runs/two_towers/latest", ".mmdeploy/runs/two_towers/latest/report.json"]
)
def test_a_report_by_folder_or_by_file(stopped: Path, capsys: pytest.CaptureFixture[str], argument: str) -> None:
    capsys.readouterr()
    assert run(commands, ["report", argument, "--format", "json"]) == 4
    assert json.loads(capsys.readouterr().out)["failure"]["message"] == "no Triton here"


@pytest.mark.parametrize(("form", "file"), [("md", "report.md"), ("junit", "junit.xml"), ("json", "report.json")])
def test_every_form_is_what_the_build_wrote(
    stopped: Path, capsys: pytest.CaptureFixture[str], form: str, file: str
) -> None:
    capsys.readouterr()
    assert run(commands, ["report", "--format", form]) == 4
    printed = capsys.readouterr().out
    assert printed == (stopped / file).read_text()
    if form == "junit":
        ElementTree.fromstring(printed)


def test_html_is_a_page(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(commands, ["report", "--format", "html"]) == 4
    assert capsys.readouterr().out.lstrip().lower().startswith("<!doctype html>")


def test_of_several_recipes_the_newest_run_counts(
    stopped: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = Path(".mmdeploy/runs/another/latest")
    other.mkdir(parents=True)
    report = json.loads((stopped / "report.json").read_text())
    report["recipe"]["name"] = "another"
    (other / "report.json").write_text(json.dumps(report))
    os.utime(other / "report.json", (2**31, 2**31))
    capsys.readouterr()
    assert run(commands, ["report"]) == 4
    assert "\nanother stopped: " in capsys.readouterr().out


def test_no_report_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(commands, ["report"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: there is no report under .mmdeploy/runs\nhint: build a recipe first, or name a report.json\n",
    )
    assert run(commands, ["report", "gone.json"]) == 2
    assert "gone.json" in capsys.readouterr().err
    (tmp_path / "report.json").write_text("{}")
    assert run(commands, ["report", "report.json"]) == 2
    assert capsys.readouterr().err.startswith("error: report.json")


def test_a_form_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["report", "--format", "pdf"]) == 2
    assert "'pdf' is not one of 'terminal', 'json', 'md', 'junit', 'html'" in capsys.readouterr().err
