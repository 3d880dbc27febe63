"""What the samples of a gate can show stands in every rendering."""

import io

import pytest
from report_samples import passed
from rich.console import Console

from mmdeploy.record.build_report import BuildReport, CheckRecord, GateRecord, Verdict
from mmdeploy.report import html, junit, markdown, power
from mmdeploy.report.terminal import Summary

TOLD = "top1, 95 % confidence: the smallest change that 1187 samples show in 4 of 5 cases is 0.00661"


def terminal(report: BuildReport) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(Summary(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("render", [terminal, markdown.render, html.render, junit.render])
def test_it_is_told_in_every_rendering(render: object) -> None:
    assert TOLD in render(passed())  # type: ignore[operator]


def test_checks_against_a_baseline_tell_theirs() -> None:
    check = CheckRecord(name="top1 drop", measured=0.0, limit="<= 0.1", verdict=Verdict.PASS, samples=20)
    shown = {"top1 drop": {"confidence": 0.9, "smallest_effect": None}}
    gate = GateRecord(gate="baseline", verdict=Verdict.PASS, checks=(check,), details={"resolution": shown})
    assert [*power.of_gate(gate)] == ["top1 drop, 90 % confidence: which changes 20 samples show is not known"]
    assert [*power.of_gate(gate.model_copy(update={"details": {}}))] == []  # of an older report
