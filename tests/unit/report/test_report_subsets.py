"""The matrix of modalities: a row a subset, in every rendering."""

import io
from typing import Any

from report_samples import passed
from rich.console import Console

from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import BuildReport, CheckRecord, GateRecord
from mmdeploy.report import html, junit, markdown, subsets, terminal

LABELS = ("without image", "without text and audio")


def check(name: str, verdict: Verdict = Verdict.PASS) -> CheckRecord:
    return CheckRecord(name=name, measured=0.5, limit="<= 1", verdict=verdict)


def gate(method: str, details: dict[str, Any], *checks: CheckRecord) -> GateRecord:
    verdict = Verdict.of_all([one.verdict for one in checks])
    return GateRecord(gate=method, verdict=verdict, seconds=1.0, checks=checks, details=details)


def judged() -> BuildReport:
    scores = {"scores": {"original": 0.9, "candidate": 0.8}}
    cosine = {"tensors": {"end to end": {"cosine": {"worst": 0.99}}}}
    accuracy = {"metric": "top1", **scores, "subsets": dict.fromkeys(LABELS, scores)}
    parity = {**cosine, "subsets": {LABELS[0]: cosine, LABELS[1]: {}}}
    failed = check("top1 drop without text and audio", Verdict.FAIL)
    gates = (
        gate("accuracy", accuracy, check("top1 drop"), *(check(f"top1 drop ({label})") for label in LABELS)),
        gate("parity", parity, check("end to end: worst cosine")),
        gate("graceful", {}, check("top1 drop without image"), failed),
    )
    return passed().model_copy(update={"gates": gates})


def test_a_report_without_subsets_has_no_matrix():
    assert subsets.matrix(passed()) == ((), [])
    assert subsets.TITLE not in markdown.render(passed())


def test_each_subset_has_its_figures_and_its_verdict():
    head, rows = subsets.matrix(judged())
    assert head == ("Modalities", "top1 of PyTorch", "top1 served", "Worst cosine", "Verdict")
    assert [row[0] for row in rows] == ["all", *LABELS]
    assert [row[-1] for row in rows] == ["pass", "pass", "fail"]
    assert rows[2][3] == ""


def test_every_rendering_has_it():
    report = judged()
    for text in (markdown.render(report), junit.render(report), html.render(report)):
        assert subsets.TITLE in text
        assert "without text and audio" in text
    for width in (40, 120):
        console = Console(file=io.StringIO(), width=width, record=True)
        console.print(terminal.Summary(report))
        assert "without text and audio" in " ".join(console.export_text().split())
