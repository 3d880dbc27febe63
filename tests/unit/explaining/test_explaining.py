"""What an explanation says of figures, and what of a report can be explained."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import failed, passed, searched, stopped

from mmdeploy.baseline.accepted import trimmed
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.core.store import Store
from mmdeploy.explaining import reported
from mmdeploy.explaining.findings import OPEN, concluded, loss
from mmdeploy.explaining.run import Asked, explained, named_gate, stored
from mmdeploy.record.build_report import BuildReport, GateRecord
from mmdeploy.record.observer import Silent

LOSSES = st.lists(
    st.tuples(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5)).map(
        lambda found: (found[0], (found[0] - found[1], found[0] + found[2]))
    ),
    min_size=1,
    max_size=6,
)


@given(LOSSES)
def test_nothing_is_blamed_that_may_lose_nothing(found: list[tuple[float, tuple[float, float]]]) -> None:
    shares = [loss(f"c{index}", value, ends) for index, (value, ends) in enumerate(found)]
    told = concluded(shares, "component", smallest=0.01)
    sure, _, doubted = told.partition("; of ")
    for one, (_, (low, high)) in zip(shares, found, strict=True):
        assert (one.told == OPEN) == (low <= 0 <= high)
        assert low > 0 or one.what not in sure.replace(",", " ").split()
        assert not doubted or (one.what in doubted.replace(",", " ").split()) == (one.told == OPEN)
    if all(low <= 0 for _, (low, _) in found):
        assert (
            told == "no component by itself surely loses anything on these samples; they show changes of 0.01 and more"
        )


def test_which_of_two_loses_most_may_be_open() -> None:
    shares = [loss("a", 0.3, (0.2, 0.4)), loss("b", 0.25, (0.15, 0.35)), loss("c", 0.05, (0.01, 0.09))]
    assert concluded(shares, "component") == "a, b surely lose, and which of them most cannot be told"
    assert concluded(shares[1:], "component") == "b loses most for sure"
    assert loss("a", None, None).told == "not measured"
    assert loss("a", 0.1, None).told == "no interval is known: it may be chance"


def asked(gate: str, **fields: object) -> Asked:
    return Asked(gate, None, Path("nowhere"), **fields)  # type: ignore[arg-type]


def with_verdict(report: BuildReport, gate: str, verdict: Verdict) -> BuildReport:
    gates = tuple(one.model_copy(update={"verdict": verdict}) if one.gate == gate else one for one in report.gates)
    return report.model_copy(update={"gates": gates})


def test_sizes_and_latencies_are_cut_by_component() -> None:
    found = explained(with_verdict(passed(), "size", Verdict.FAIL), asked("size"), Silent())
    (section,) = found.sections
    assert [one.what for one in section.shares] == ["audio_encoder", "image_encoder", "fusion"]
    assert "640 KiB" in section.shares[0].told and "0.30 of FP32" in section.shares[0].told
    assert found.conclusions == ("audio_encoder is the largest, and fusion shrank least",)
    found = explained(with_verdict(passed(), "latency", Verdict.FAIL), asked("latency"), Silent())
    assert {one.what for one in found.sections[-1].shares} == {"image_encoder", "audio_encoder", "fusion"}
    assert "takes longest" in found.conclusions[0]
    bare = passed().model_copy(update={"sizes": (), "latencies": ()})
    assert reported.sizes(bare)[1] == "the report holds no sizes"
    assert reported.latency(bare)[1].startswith("no component was timed alone")


def test_parity_is_cut_by_component_with_the_stages_that_are_known() -> None:
    figures = {"image_encoder.embedding": 31.0, "fusion.logits": 30.4, "end to end.logits": 22.0}
    details = {"tensors": {name: {"sqnr_db": {"mean": value}} for name, value in figures.items()}}
    gate = GateRecord(gate="parity", verdict=Verdict.FAIL, checks=(), details=details)
    found = explained(passed().model_copy(update={"gates": (gate,)}), asked("parity"), Silent())
    assert found.conclusions[0] == (
        "fusion.logits and image_encoder.embedding differ most from PyTorch, within 1 dB of each other"
    )
    assert found.conclusions[1].startswith("`mmdeploy debug recipes/spoken_digits/recipe.yaml fusion`")
    assert any(section.title == "fusion, stage by stage: SQNR, dB" for section in found.sections)


def test_layer_groups_that_were_measured_are_taken_from_the_report() -> None:
    details = {"tensors": {"fusion.logits": {"sqnr_db": {"mean": 7.0}}}}
    gate = GateRecord(gate="parity", verdict=Verdict.FAIL, checks=(), details=details)
    found = explained(searched().model_copy(update={"gates": (gate,)}), asked("parity"), Silent())
    (groups,) = [one for one in found.sections if "layer group" in one.title]
    assert [one.what for one in groups.shares] == ["gate", "attention", "head"]
    assert groups.shares[0].told == "loses" and found.not_measured == ()


def test_the_baseline_is_cut_as_what_it_missed() -> None:
    checks = [
        {"name": name, "measured": 1.2, "limit": "<= 1", "verdict": "fail"}
        for name in ("size ratio", "p50 ratio (batch 1, concurrency 1)")
    ]
    gate = GateRecord.model_validate_json(json.dumps({"gate": "baseline", "verdict": "fail", "checks": checks}))
    found = explained(passed().model_copy(update={"gates": (*passed().gates, gate)}), asked("baseline"), Silent())
    assert found.sections[0].title == "component by component: bytes"
    assert any("p50 ms" in section.title for section in found.sections)
    assert found.conclusions[-1].startswith("`mmdeploy compare BASELINE REPORT`")


def test_what_cannot_be_explained_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no gate 'acuracy'; did you mean 'accuracy'"):
        named_gate(passed(), "acuracy")
    with pytest.raises(UsageError, match="was not judged by any gate"):
        named_gate(stopped(), "accuracy")
    with pytest.raises(UsageError, match="the gate size passed") as caught:
        explained(passed(), asked("size"), Silent())
    assert "--passed" in str(caught.value.hint)
    assert explained(passed(), asked("size", passed=True), Silent()).verdict == "pass"
    with pytest.raises(UsageError, match="gates of the method 'memory' are not explained; accepted: accuracy"):
        explained(passed(), asked("memory"), Silent())
    with pytest.raises(UsageError, match="tells no steps, as a baseline does"):
        stored(trimmed(passed()), Store(tmp_path))
    with pytest.raises(UsageError, match=r"does not have what image_encoder/export made, nor \d other steps"):
        stored(failed(), Store(tmp_path))


def test_the_second_gate_of_a_method_has_its_number() -> None:
    gates = (*passed().gates, passed().gates[0])
    assert named_gate(passed().model_copy(update={"gates": gates}), "parity 2")[0] == len(gates) - 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(failed().to_json())
    argv = ["explain", str(tmp_path), "accuracy", "--report-only"]
    assert run(commands, argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("accuracy: fail\n  top1 drop: 0.022 [0.013, 0.031], limit <= 0.01: fail")
    assert "not known: components were not swapped: that needs the recipe and the store." in out
    assert run(commands, [*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gate"] == "accuracy"
    assert run(commands, ["explain", str(tmp_path), "acc"]) == 2
    assert "the report has no gate 'acc'" in capsys.readouterr().err
    assert run(commands, ["explain", str(tmp_path), "accuracy", "--recipe", "gone.yaml"]) == 2
    assert "gone.yaml: the recipe of this build is not there" in capsys.readouterr().err
