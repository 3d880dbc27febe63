"""``mmdeploy build``: what it hands to the build, what it prints, and where it says what went wrong."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdeploy.building import builder
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import EnvironmentUnfitError, StoreError
from mmdeploy.planning.steps import Plan, Wanted
from mmdeploy.record.build_report import BuildReport


@pytest.fixture
def build(tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        options = ["--workdir", str(tmp_path / "work"), "--output", str(tmp_path / "live")]
        code = run(commands, ["build", str(tiny_recipe), *options, *arguments])
        return code, *capsys.readouterr()

    return call


def unfit(*_: object) -> None:
    raise EnvironmentUnfitError("no Triton here", hint="install one")


def test_the_command_line_reaches_the_build(
    build: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = []

    def note(recipe: object, settings: builder.Settings, observer: object, upto: Wanted) -> None:
        taken.append((recipe, settings, upto))
        raise EnvironmentUnfitError("enough")

    monkeypatch.setattr(builder, "run_build", note)
    options = ("--jobs", "3", "--publish-unverified", "--no-cache", "--only", "left/export")
    code, _, _ = build(*options, "--set", "seed=11", "--set", "gates=[]")
    assert code == 4
    ((recipe, settings, upto),) = taken
    assert settings == builder.Settings(
        tmp_path / "work", tmp_path / "live", jobs=3, publish_unverified=True, fresh=True
    )
    assert [*upto(Plan("two_towers", ()))] == ["left/export"]
    assert (recipe.seed, recipe.gates) == (11, ())


@pytest.mark.parametrize("jobs", ["0", "many"])
def test_a_wrong_number_of_jobs(build: Callable[..., tuple[int, str, str]], jobs: str) -> None:
    code, out, err = build("--jobs", jobs)
    assert (code, out) == (2, "")
    assert "'--jobs'" in err


def test_why_a_build_stopped_is_told_once_and_on_standard_error(
    build: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(builder, "require_environment", unfit)
    code, out, err = build()
    assert code == 4
    assert err == "error: no Triton here\nhint: install one\n"
    assert "no Triton here" not in out
    assert "install one" not in out
    assert "two_towers stopped: the build failed, the gates did not decide\n" in out
    assert "not published; what was live before still is\n" in out
    folder = (tmp_path / "work" / "runs" / "two_towers" / "latest").resolve()
    assert str(folder / "report.html") in out.replace("\n", "")
    assert {path.name for path in folder.iterdir()} >= {"report.json", "report.md", "report.html", "junit.xml"}
    failure = json.loads((folder / "report.json").read_text())["failure"]
    assert (failure["message"], failure["hint"]) == ("no Triton here", "install one")


def test_the_report_alone_or_nothing_is_printed(
    build: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "require_environment", unfit)
    code, out, err = build("--json")
    assert (code, err) == (4, "error: no Triton here\nhint: install one\n")
    assert json.loads(out)["failure"]["message"] == "no Triton here"
    assert build("--quiet") == (4, "", "error: no Triton here\nhint: install one\n")


def test_a_step_error_without_a_log_names_the_run_s(
    build: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(builder, "require_environment", full)
    code, _, err = build()
    assert code == 3
    told = re.fullmatch(r"error: no space left\nlog: (\S+)\n", err)
    assert told is not None
    assert Path(told[1]).is_dir()


def test_what_stopped_the_build_is_told_even_when_the_report_cannot_be_written(
    build: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("cannot write the report")

    monkeypatch.setattr(builder, "require_environment", unfit)
    monkeypatch.setattr("mmdeploy.report.write_all", refuse)
    code, out, err = build()
    assert (code, err) == (4, "error: no Triton here\nhint: install one\n")
    assert "two_towers stopped" in out


def test_a_report_that_cannot_be_written_is_an_error_by_itself(
    build: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("cannot write the report")

    real = builder.run_build
    monkeypatch.setattr(builder, "require_environment", unfit)
    monkeypatch.setattr(builder, "run_build", lambda *a, **k: dataclasses.replace(real(*a, **k), error=None))
    monkeypatch.setattr("mmdeploy.report.write_all", refuse)
    code, _, err = build()
    assert (code, err) == (3, "error: the verdict is fail, and nothing was published; but cannot write the report\n")


def test_a_release_that_is_live_is_told_although_its_report_cannot_be_written(
    build: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("cannot write the report")

    def published(*arguments: object, **given: object) -> builder.Outcome:
        outcome = real(*arguments, **given)  # type: ignore[arg-type]
        changes = {"published": tmp_path / "live", "failure": None, "verdict": "pass", "exit_code": 0}
        report = BuildReport.model_validate(outcome.report.model_dump() | changes)
        return dataclasses.replace(outcome, error=None, report=report)

    real = builder.run_build
    monkeypatch.setattr(builder, "require_environment", unfit)
    monkeypatch.setattr(builder, "run_build", published)
    monkeypatch.setattr("mmdeploy.report.write_all", refuse)
    monkeypatch.setenv("COLUMNS", "400")  # however long the path of the test's folder is
    code, out, err = build()
    assert (code, err) == (3, f"error: the release is live: {tmp_path / 'live'}; but cannot write the report\n")
    assert f"published: {tmp_path / 'live'}" in out


def test_an_interrupt_is_one_line(
    build: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "require_environment", interrupt)
    code, out, err = build()
    assert (code, err.strip()) == (130, "error: interrupted")
    assert "two_towers stopped: interrupted, the gates did not decide\n" in out
    report = BuildReport.model_validate_json(
        (tmp_path / "work" / "runs" / "two_towers" / "latest" / "report.json").read_text()
    )
    assert report.exit_code == 130


def test_a_wrong_recipe_makes_no_folder(build: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, err = build("--set", "target=gpu")
    assert (code, out) == (2, "")
    assert err.startswith("error: 1 problem in the recipe\n")
    assert not (tmp_path / "work").exists()
