"""What a trial is worth is read from its report, intervals included; what no gate measures is not compared."""

import re
from pathlib import Path

import click
import pytest
from report_samples import LATENCY, PARITY, passed

from mmdeploy.cli import commands, outcome
from mmdeploy.core.contracts import Check, GateResult, Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.record.build_report import gate_record
from mmdeploy.studies import study
from mmdeploy.studies.objectives import Figure, chosen_objectives, figures_of

RECIPE = Path(__file__).parents[2] / "tiny_recipe" / "recipe.yaml"
GATES = (
    "gates=[{method: parity, min_cosine: 0.9}, {method: accuracy, metric: top1, max_drop: 0.1}, {method: accuracy, "
    "metric: f1_macro, max_drop: 0.2}, {method: latency, percentile: p95, max_ratio_to_reference: 2, requests: 400}]"
)


def _recipe(*overrides: str) -> Recipe:
    return load_recipe(RECIPE, overrides)


def _dropped(drop: float, interval: tuple[float, float]) -> GateResult:
    checks = (Check("drop", drop, "<= 0.1", Verdict.PASS),)
    return GateResult("accuracy", checks, {"drop": drop, "drop_interval": list(interval)})


def test_figures_are_those_of_the_gates_that_judged() -> None:
    end = {"cosine": {"worst": 0.98, "mean": 0.99}}
    tensors = {"left": {"cosine": {"worst": 0.5, "mean": 0.9}}, "end to end": end}
    gates = (
        GateResult("parity", PARITY.checks, {"tensors": tensors}),
        _dropped(0.01, (0.0, 0.02)), _dropped(0.03, (0.01, 0.05)), LATENCY,
    )  # fmt: skip
    report = passed().model_copy(update={"gates": tuple(gate_record(one) for one in gates)})
    found = figures_of(report, _recipe(GATES), ("accuracy", "latency", "bytes", "parity"))
    assert found["accuracy"] == Figure(0.03, 0.01, 0.05), "the gate that loses most"
    assert found["latency"] == Figure(0.6939, 0.6612, 0.7288)
    assert found["bytes"].is_exact
    assert found["bytes"].value == sum(one.candidate_bytes or 0 for one in report.sizes)
    assert found["parity"].value == pytest.approx(0.02), "what comes out at the end, not a tensor inside"


def test_a_latency_without_a_ratio_is_as_wide_as_both_intervals_allow() -> None:
    times = {
        "candidate_ms": {"p95": 2.0}, "reference_ms": {"p95": 4.0},
        "candidate_interval_ms": {"p95": [1.0, 3.0]}, "reference_interval_ms": {"p95": [2.0, 6.0]},
    }  # fmt: skip
    gate = GateResult("latency", (Check("p95", 2.0, "<= 5 ms", Verdict.PASS),), times)
    report = passed().model_copy(update={"gates": (gate_record(gate),)})
    recipe = _recipe("gates=[{method: latency, percentile: p95, max_ms: 5, hardware: any, requests: 400}]")
    assert figures_of(report, recipe, ("latency",))["latency"] == Figure(0.5, 1 / 6, 1.5)


def test_a_report_without_a_figure_gives_none() -> None:
    report = passed().model_copy(update={"gates": (), "sizes": ()})
    assert figures_of(report, _recipe(GATES), ("accuracy", "latency", "bytes", "parity")) == {}


def test_by_default_what_the_gates_measure_is_compared() -> None:
    assert chosen_objectives((), _recipe(GATES)) == (("accuracy", "latency", "bytes"), ())
    assert chosen_objectives((), _recipe()) == (("accuracy", "bytes"), ("latency",))
    assert chosen_objectives(("bytes", "parity"), _recipe()) == (("bytes", "parity"), ())


@pytest.mark.parametrize(
    ("asked", "gates", "said"),
    [
        (("acuracy",), "gates=[]", "did you mean 'accuracy'?"),
        (("bytes", "bytes"), "gates=[]", "is there twice"),
        (("latency", "bytes"), "gates=[]", "measured by a gate latency, and the recipe has none"),
        ((), "gates=[]", "only bytes are left to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(asked: tuple[str, ...], gates: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        chosen_objectives(asked, _recipe(gates))


def test_without_optuna_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(commands, click.Group)
    monkeypatch.setattr(study, "find_spec", lambda name: None)
    assert outcome.run(commands, ["sweep", str(RECIPE), "--set", "quantize.samples=8,16"]) == 4
    assert "hint: pip install 'multimodal-deploy[sweep]'" in capsys.readouterr().err
