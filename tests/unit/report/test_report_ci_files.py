"""What CI systems and trackers of benchmarks read of a build, and of a build against a baseline."""

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import SAMPLES, failed, inconclusive, passed

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import CheckRecord, GateRecord
from mmdeploy.report import benchmark, github, sarif


@pytest.mark.parametrize("name", [*SAMPLES])
def test_benchmarks_are_in_the_form_of_trackers(name: str) -> None:
    found = benchmark.files(SAMPLES[name](), Path("out/bench.json"))
    assert [str(path) for path in found] == ["out/bench.json", "out/bench.larger.json"]
    for text in found.values():
        entries = json.loads(text)
        assert len({entry["name"] for entry in entries}) == len(entries)
        for entry in entries:
            assert {"name", "unit", "value"} <= entry.keys() <= {"name", "unit", "value", "range", "extra"}
            assert isinstance(entry["name"], str) and entry["unit"] and math.isfinite(entry["value"])


def test_each_figure_is_on_its_side() -> None:
    smaller, larger = (
        {entry["name"]: entry for entry in json.loads(text)}
        for text in benchmark.files(passed(), Path("b.json")).values()
    )
    assert smaller["total: size"] == {"name": "total: size", "unit": "bytes", "value": 1194747}
    assert smaller["accuracy: top1 drop"] == {
        "name": "accuracy: top1 drop", "unit": "score", "value": 0.0034, "range": "-0.0011 to 0.0079",
        "extra": "limit <= 0.01",
    }  # fmt: skip
    assert any(name.startswith("end to end: p95 (batch 1") for name in smaller)
    assert larger["parity: end to end: SQNR"]["unit"] == "dB"
    assert not smaller.keys() & larger.keys()


@pytest.mark.parametrize("larger", [True, False])
def test_a_score_is_on_the_side_of_its_metric(larger: bool) -> None:
    details = {
        "metric": "m", "larger_is_better": larger, "scores": {"candidate": 0.9}, "score_interval": [0.8, 0.95],
    }  # fmt: skip
    gate = GateRecord(gate="accuracy", verdict=Verdict.PASS, checks=(), details=details)
    report = passed().model_copy(update={"gates": (gate,), "sizes": (), "latencies": ()})
    smaller, others = (json.loads(text) for text in benchmark.files(report, Path("b.json")).values())
    entry = {"name": "accuracy: m", "unit": "score", "value": 0.9, "range": "0.8 to 0.95"}
    assert (smaller, others) == (([], [entry]) if larger else ([entry], []))


@given(
    st.lists(st.tuples(st.text(max_size=8), st.floats() | st.none(), st.sampled_from(["<= 1", ">= 1", "all"]))),
)
def test_whatever_was_measured_is_json(checks: list[tuple[str, float | None, str]]) -> None:
    found = tuple(CheckRecord(name=n, measured=m, limit=w, verdict=Verdict.PASS) for n, m, w in checks)
    report = passed().model_copy(update={"gates": (GateRecord(gate="g", verdict=Verdict.PASS, checks=found),)})
    for text in benchmark.files(report, Path("b.json")).values():
        json.loads(text, parse_constant=pytest.fail)


def test_sarif_holds_what_did_not_pass_at_its_line(tmp_path: Path) -> None:
    report = failed()
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\ngates:\n" + "  - {method: size}\n" * len(report.gates))
    report = report.model_copy(update={"recipe": report.recipe.model_copy(update={"path": path})})
    (found,) = json.loads(sarif.of_gates(report))["runs"]
    wrong = [
        (index, check)
        for index, gate in enumerate(report.gates)
        for check in gate.checks
        if check.verdict is not Verdict.PASS
    ]
    assert len(found["results"]) == len(wrong) > 0
    for result, (index, check) in zip(found["results"], wrong, strict=True):
        assert result["ruleId"] == found["tool"]["driver"]["rules"][result["ruleIndex"]]["id"]
        assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 3 + index
        assert result["level"] == "error" and check.name in result["message"]["text"]
    assert {one["level"] for one in json.loads(sarif.of_gates(inconclusive()))["runs"][0]["results"]} == {"warning"}


def test_groups_fold_on_runners_only() -> None:
    said: list[str] = []
    for environ in ({"GITHUB_ACTIONS": "true"}, {}):
        with pytest.raises(ZeroDivisionError), github.group("a%b", said.append, environ):
            said.append("inside")
            raise ZeroDivisionError
    assert said == ["::group::a%25b", "inside", "::endgroup::", "inside"]


def test_gate_writes_what_ci_systems_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    report = passed()
    Path("recipe.yaml").write_text("name: spoken_digits\ngates: []\nbaseline: {file: b.json}\n")
    report = report.model_copy(update={"recipe": report.recipe.model_copy(update={"path": Path("recipe.yaml")})})
    Path("before.json").write_text(report.to_json())
    grown = tuple(one.model_copy(update={"candidate_bytes": 2 * (one.candidate_bytes or 0)}) for one in report.sizes)
    Path("after.json").write_text(report.model_copy(update={"sizes": grown}).to_json())
    argv = [
        "gate", "after.json", "--baseline", "before.json", "--max-size-ratio", "1.05", "--junit", "out/j.xml",
        "--sarif", "out/s.json", "--benchmark-json", "out/b.json",
    ]  # fmt: skip
    assert run(commands, argv) == 1
    assert (
        "::error file=recipe.yaml,line=3,title=mmdeploy%3A gate baseline%3A fail::size ratio" in capsys.readouterr().err
    )
    suite = ET.parse("out/j.xml").getroot()[0]
    assert suite.get("failures") == "1"
    assert [case.get("name") for case in suite.iter("testcase")][-1] == "gate baseline"
    (result,) = json.loads(Path("out/s.json").read_text())["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("gate/baseline", "error")
    assert "baseline: size ratio" in Path("out/b.json").read_text() and Path("out/b.larger.json").exists()
    summary = Path("summary.md").read_text()
    assert summary.splitlines()[0] == "### ❌ spoken_digits: baseline fail"
    assert "parity" not in summary  # of the build's own gates its own summary tells
    Path("file").touch()
    assert run(commands, [*argv[:6], "--junit", "file/j.xml"]) == 3
    assert "cannot write" in capsys.readouterr().err
