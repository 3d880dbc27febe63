"""Costs, the course of trainings and the plain recipe, as each rendering tells them."""

import re

import pytest
from report_samples import COMPONENTS, STEPS, chosen, passed, trained
from rich.console import Console

from mmdeploy.core.facts import as_metadata
from mmdeploy.quantize.coverage import COVERAGE, Coverage
from mmdeploy.record.build_report import BuildReport, CostRecord, StepRecord
from mmdeploy.report import choices, costs, coverage, html, markdown, trainings
from mmdeploy.report.terminal import Summary
from mmdeploy.report.units import count_text


def terminal(report: BuildReport, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(Summary(report))
    return " ".join(captured.get().split())


def page_text(report: BuildReport) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html.render(report)).split())


@pytest.mark.parametrize("render", [terminal, markdown.render, page_text], ids=["terminal", "markdown", "html"])
def test_every_rendering_says_how_training_went_and_what_it_saved(render):
    text = render(trained()).replace("\\", "")
    for words in (
        "no epoch was better than before training (top1 0.9666): weights unchanged",
        "0.9708 after epoch 3 of 4 (stopped early)",
        "313 k → 124 k (0.40)",
        "4.12 M → 1.64 M (0.40)",
        "1.19 MiB → 486 KiB (0.40)",
        "0.238 [0.228, 0.250] of uncompressed",
        "audio_encoder: zeros change nothing here",
        "plain_recipe.yaml",
    ):
        assert words in text


def test_without_any_of_it_nothing_is_said():
    for text in (terminal(passed()), markdown.render(passed()), html.render(passed())):
        assert not re.search("plain recipe|Training|Costs|without searching", text)


def test_costs_that_nothing_changed_are_not_in_the_way():
    before = trained().costs[0].before
    untouched = tuple(CostRecord(component=name, before=before) for name in COMPONENTS)
    report = passed().model_copy(update={"costs": untouched})
    assert "FLOPs" not in terminal(report)
    assert "<summary>Costs</summary>" in markdown.render(report)
    assert costs.rows(report)[0] == ("image_encoder", "313 k", "313 k", "4.12 M", "1.19 MiB", "–")


def test_zeros_are_told_apart_from_fewer_parameters():
    _, sparse, _ = trained().costs
    assert "parameters 313 k, not zero 313 k → 157 k (0.50), FLOPs a sample 4.12 M" in costs.sentence(sparse)
    assert "not zero" not in costs.sentence(trained().costs[0])


def test_a_training_is_drawn_with_the_epoch_that_was_kept():
    page = html.render(trained())
    assert "<h2>Training</h2>" in page
    assert "kept: epoch 3" in page
    assert "kept: before training" in page
    assert page.count('aria-label="image_encoder/recover: ') == 2


def test_the_epochs_that_were_not_finite_say_so():
    _, (_, course) = trainings.trainings(trained())
    assert [row.best for row in trainings.rows(course)] == [True, False, False]
    assert trainings.rows(course)[-1].cells[1:4] == ("not finite",) * 3
    assert trainings.rows(course)[0].cells[:2] == ("before", "–")


def test_what_is_no_training_is_not_shown_as_one():
    for training in (None, {}, {"metric": "top1", "epochs": []}, "nothing"):
        step = StepRecord(
            id="a/recover", component="a", kind="recover", method="finetune", status="failed",
            metadata={"training": training},
        )  # fmt: skip
        assert trainings.trainings(passed().model_copy(update={"steps": (*STEPS, step)})) == []


def test_candidates_share_a_row_and_one_that_failed_does_not():
    def candidate(name: str, status: str) -> StepRecord:
        return StepRecord(id=f"fusion/candidate.{name}", component="fusion", kind="engine", method="ort", status=status)

    steps = (*STEPS, candidate("a", "ran"), candidate("b", "ran"), candidate("c", "failed"), candidate("d", "reused"))
    text = terminal(chosen().model_copy(update={"steps": steps}))
    assert "2 candidates ran" in text
    assert "candidate.c (ort) failed" in text
    assert "1 candidate reused" in text
    assert "candidate.a" not in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (1234, "1.23 k"), (999_400, "999 k"), (999_600, "1 M"),
     (1.2e6, "1.2 M"), (5e9, "5 G"), (1.5e13, "15 T")],
)  # fmt: skip
def test_counts_have_three_digits(count, text):
    assert count_text(count) == text


def covered() -> BuildReport:
    """The trained build, whose steps say how much is in INT8."""
    half = Coverage(3, 1, 40_000, 3_072, {"r/LSTM": "LSTM", "r/LSTM_1": "LSTM"})
    whole = Coverage(5, 5, 1000, 990, {})
    found = {"audio_encoder": half, "fusion": whole}
    told = [
        StepRecord(
            id=f"{name}/quantize", component=name, kind="quantize", method="static", status="ran",
            metadata={COVERAGE: as_metadata(one)},
        )
        for name, one in found.items()
    ]  # fmt: skip
    others = [step for step in trained().steps if step.kind != "quantize"]
    engines = [
        StepRecord(id=f"{name}/engine", component=name, kind="engine", method="onnxruntime", status="ran")
        for name in COMPONENTS
    ]
    return trained().model_copy(
        update={"steps": (*told, *engines, *(step for step in others if step.kind not in ("engine", "select")))}
    )


@pytest.mark.parametrize("render", [terminal, markdown.render, page_text], ids=["terminal", "markdown", "html"])
def test_every_rendering_says_what_stayed_in_floating_point(render):
    text = render(covered()).replace("\\", "")
    for words in ("1 of 3", "8 %", "2 LSTM (r/LSTM, r/LSTM_1)", "5 of 5", "99.0 %", "not quantized"):
        assert words in text


def test_what_does_not_ship_covers_nothing():
    quantized = StepRecord(
        id="fusion/quantize", component="fusion", kind="quantize", method="static", status="ran",
        metadata={COVERAGE: as_metadata(Coverage(5, 5, 1000, 990, {}))},
    )  # fmt: skip
    report = chosen().model_copy(update={"steps": (quantized, *chosen().steps)})
    (fusion,) = [row for row in coverage.rows(report) if row.cells[0] == "fusion"]
    shipped = dict(choices.choices(report))["fusion"].winner
    assert ("was chosen" in fusion.sentence) == (shipped.graph == "float")
    assert coverage.rows(passed()) == []
