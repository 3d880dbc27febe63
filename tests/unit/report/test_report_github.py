"""What GitHub shows of a build."""

import re
from pathlib import Path

import pytest
from report_samples import failed, inconclusive, passed, stopped

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.record.build_report import BuildReport
from mmdeploy.report import github

RECIPE = """\
# a comment
name: spoken_digits
gates:
"""


@pytest.fixture
def runner(tmp_path: Path) -> dict[str, str]:
    return {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(tmp_path)}


def at(report: BuildReport, path: Path, gates: int) -> BuildReport:
    """Return a report of a recipe in a file with so many gates, one a line from the fourth on."""
    path.write_text(RECIPE + "".join("  - {method: size}\n" for _ in range(gates)))
    return report.model_copy(update={"recipe": report.recipe.model_copy(update={"path": path})})


def test_gates_are_annotated_at_their_lines(tmp_path: Path, runner: dict[str, str]) -> None:
    (tmp_path / "recipes").mkdir()
    report = at(failed(), tmp_path / "recipes" / "a b.yaml", len(failed().gates))
    found = list(github.of_build(report, runner))
    wrong = [(index, gate) for index, gate in enumerate(report.gates) if gate.verdict != "pass"]
    assert len(found) == len(wrong) > 0
    for line, (index, gate) in zip(found, wrong, strict=True):
        level = "error" if gate.verdict == "fail" else "warning"
        title = f"mmdeploy%3A gate {gate.gate}%3A {gate.verdict.value}"
        assert line.startswith(f"::{level} file=recipes/a b.yaml,line={4 + index},title={title}::")
        assert "\n" not in line
    assert list(github.of_build(report, {})) == []
    assert list(github.of_build(at(passed(), tmp_path / "good.yaml", 1), runner)) == []


def test_the_baseline_is_annotated_at_its_section(tmp_path: Path, runner: dict[str, str]) -> None:
    report = failed()
    gates = (*report.gates, report.gates[0].model_copy(update={"gate": "baseline"}))
    report = at(report.model_copy(update={"gates": gates}), tmp_path / "r.yaml", len(gates) - 1)
    with (tmp_path / "r.yaml").open("a") as recipe:
        recipe.write("baseline: {file: b.json}\n")
    assert f"line={3 + len(gates)},title=mmdeploy%3A gate baseline%3A fail" in [*github.of_build(report, runner)][-1]


def test_what_is_left_open_is_a_warning_and_a_build_that_stopped_an_error(
    tmp_path: Path, runner: dict[str, str]
) -> None:
    report = at(inconclusive(), tmp_path / "recipe.yaml", 1)  # gates of another number: of a base
    assert {line.split(",title")[0] for line in github.of_build(report, runner)} == {
        "::warning file=recipe.yaml,line=3"
    }
    (line,) = [one for one in github.of_build(at(stopped(), tmp_path / "r.yaml", 0), runner) if " failed::" in one]
    assert line.startswith("::error file=r.yaml,line=1,title=mmdeploy%3A step ")
    gone = inconclusive().model_copy(update={"recipe": inconclusive().recipe.model_copy(update={"path": Path("gone")})})
    assert all("line=1," in one for one in github.of_build(gone, runner))


def test_the_summary_is_added_to_what_is_there(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    github.summarize(passed(), {"GITHUB_STEP_SUMMARY": str(summary)})
    assert summary.read_text().startswith("before\n") and "spoken_digits" in summary.read_text()
    github.summarize(passed(), {})
    github.summarize(passed(), {"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "folder.md")})


def test_mistakes_in_a_recipe_are_annotated(
    sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample.write_text(sample.read_text().replace("gates:", "gats:"))
    number = next(index for index, line in enumerate(sample.read_text().splitlines(), 1) if line.startswith("gats:"))
    assert run(commands, ["validate", "recipe.yaml"]) == 2
    assert "::error" not in capsys.readouterr().err
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(Path.cwd()))
    assert run(commands, ["validate", "recipe.yaml"]) == 2
    told = capsys.readouterr().err
    assert re.search(
        rf"^::error file=recipe\.yaml,line={number},title=mmdeploy%3A recipe::.*did you mean 'gates'", told, re.M
    )
    assert run(commands, ["validate", "recipe.yaml", "--set", "sed=1"]) == 2
    assert re.search(r"^::error title=mmdeploy%3A recipe::--set sed=1", capsys.readouterr().err, re.M)
