"""A build judged against an earlier one that was accepted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import failed, passed, stopped

from mmdeploy.baseline.accepted import trimmed
from mmdeploy.baseline.against import RESOLUTION, judged, own_gates
from mmdeploy.baseline.comparable import Goals
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.contracts import Check, GateResult, Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.core.target import Target
from mmdeploy.record.build_report import BuildReport, CheckRecord, GateRecord, LatencyRecord, SizeRecord, StepRecord
from mmdeploy.record.report_file import read_report
from mmdeploy.scoring.kept import KEPT, kept
from mmdeploy.triton.staging import write_manifest


def scored(
    scores: np.ndarray, *, keep: bool = True, content: str = "c", metric: str = "top1", **fields: object
) -> BuildReport:
    """Return a report of a build whose answers to some samples were scored so."""
    mean, spread = float(scores.mean()), 2 * float(scores.std()) / len(scores) ** 0.5
    details = {
        "metric": metric, "source": metric, "outputs": ["logits"], "arguments": {}, "larger_is_better": True,
        "confidence": 0.95, "scores": {"original": mean, "candidate": mean},
        "score_interval": [mean - spread, mean + spread],
        **({KEPT: kept(scores)} if keep else {}),
    }  # fmt: skip
    check = CheckRecord(name=metric, measured=mean, limit=">= 0.1", verdict=Verdict.PASS)
    gate = GateRecord(gate="accuracy", verdict=Verdict.PASS, checks=(check,), details=details)
    data = StepRecord(id="data/evaluation", component="data", kind="samples", method="samples", status="ran",
                      metadata={"content": content})  # fmt: skip
    return passed().model_copy(update={"gates": (gate,), "steps": (data,), **fields})


def answers(right: int, of: int = 2000) -> np.ndarray:
    return (np.arange(of) < right).astype(float)


def verdicts(result: GateResult) -> dict[str, str]:
    return {check.name: check.verdict.value for check in result.checks}


def test_a_build_against_itself_keeps_every_limit_that_its_samples_can_tell() -> None:
    build = scored(answers(1800))
    found = judged(build, trimmed(build), Goals(max_drop=0.01, max_relative_drop=0.01, max_size_ratio=1.0))
    assert {check.verdict for check in found.checks} == {Verdict.PASS}


@pytest.mark.parametrize(
    ("after", "of", "goals", "verdict"),
    [
        (1700, 2000, Goals(max_drop=0.01), "fail"),
        (1790, 2000, Goals(max_drop=0.02), "pass"),
        (1780, 2000, Goals(max_drop=0.012), "inconclusive"),
        (18, 20, Goals(max_drop=0.01), "inconclusive"),  # 20 samples tell nothing: not a silent pass
        (1700, 2000, Goals(max_relative_drop=0.03), "fail"),
        (1900, 2000, Goals(min_gain=0.03), "pass"),
        (1810, 2000, Goals(min_gain=0.03), "fail"),
    ],
)
def test_accuracy_is_judged_by_the_paired_interval(after: int, of: int, goals: Goals, verdict: str) -> None:
    before = scored(answers(1800 * of // 2000, of))
    (check,) = judged(scored(answers(after, of)), trimmed(before), goals).checks
    assert check.verdict.value == verdict
    assert check.samples == of and "cannot be told here" in check.note


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.floats(0, 0.5))
def test_a_verdict_never_contradicts_its_interval(pairs: list[tuple[bool, bool]], limit: float) -> None:
    before, after = (np.array(side, float) for side in zip(*pairs, strict=True))
    (check,) = judged(scored(after), scored(before), Goals(max_drop=limit)).checks
    assert check.interval is not None and check.measured == pytest.approx(float(before.mean() - after.mean()))
    low, high = check.interval
    assert check.verdict is not Verdict.PASS or high <= limit + 1e-6
    assert check.verdict is not Verdict.FAIL or low > limit


def test_a_metric_that_scores_no_sample_is_judged_by_both_intervals() -> None:
    before, after = (scored(answers(right), keep=False, metric="f1_macro") for right in (1800, 1200))
    (check,) = judged(after, trimmed(before), Goals(max_drop=0.1)).checks
    assert check.verdict is Verdict.FAIL and check.measured == pytest.approx(0.3)
    assert "by the intervals of both" in check.note


def test_what_cannot_be_compared_is_refused_or_left_open() -> None:
    build = scored(answers(1800))
    with pytest.raises(UsageError, match="other evaluation samples"):
        judged(scored(answers(1800), content="d"), build, Goals(max_drop=0.1))
    other = build.model_copy(update={"recipe": build.recipe.model_copy(update={"name": "other"})})
    with pytest.raises(UsageError, match="the baseline is of other"):
        judged(build, other, Goals(max_drop=0.1))
    with pytest.raises(UsageError, match="has no accuracy"):
        judged(build, build.model_copy(update={"gates": ()}), Goals(max_drop=0.1))
    with pytest.raises(UsageError, match="was not judged"):
        judged(stopped(), passed(), Goals(max_drop=0.1))
    with pytest.raises(UsageError, match="came to fail: only one that passed"):
        trimmed(failed())
    assert verdicts(judged(scored(answers(3), metric="top5"), build, Goals(max_drop=0.1))) == {"top1": "inconclusive"}


def test_the_builds_own_gates_are_judged_too() -> None:
    assert own_gates(failed()) == Check("the build's own gates", None, "pass", Verdict.FAIL)
    assert own_gates(passed()).verdict is Verdict.PASS


def latency(candidate: float, reference: float, spread: float = 0.01) -> LatencyRecord:
    ends = [((1 - spread) * value, (1 + spread) * value) for value in (candidate, reference)]
    return LatencyRecord(
        component=None, statistic="p50", batch_size=1, concurrency=1, reference_ms=reference, candidate_ms=candidate,
        candidate_interval_ms=ends[0], reference_interval_ms=ends[1],
    )  # fmt: skip


def test_sizes_and_latencies() -> None:
    def built(size: int, *latencies: LatencyRecord) -> BuildReport:
        sizes = (SizeRecord(component="a", reference_bytes=1000, candidate_bytes=size),)
        return scored(answers(1800), sizes=sizes, latencies=latencies)

    before = built(100, latency(5.0, 10.0))
    goals = Goals(max_size_ratio=1.1, max_latency_ratio=1.1)
    name = "p50 ratio (batch 1, concurrency 1)"
    assert verdicts(judged(built(120, latency(8.0, 10.0)), before, goals)) == {"size ratio": "fail", name: "fail"}
    assert verdicts(judged(built(110, latency(10.0, 20.0)), before, goals)) == {"size ratio": "pass", name: "pass"}
    assert verdicts(judged(built(1, latency(5.0, 10.0, 0.5)), before, goals))[name] == "inconclusive"
    assert verdicts(judged(built(1), before, goals)) == {"size ratio": "pass", "latency ratio": "inconclusive"}

    def in_turns(low: float, high: float) -> GateRecord:
        ratio = CheckRecord(name=name, measured=0.5, limit="<= 1", verdict=Verdict.PASS, interval=(low, high))
        return GateRecord(gate="latency", verdict=Verdict.PASS, checks=(ratio,))

    wide = built(1, latency(5.0, 10.0, 0.5))
    told = [wide.model_copy(update={"gates": (*wide.gates, in_turns(0.49, 0.51))}) for _ in range(2)]
    assert verdicts(judged(*told, goals))[name] == "pass"  # measured in turns, they are told apart


def test_a_baseline_is_small_and_a_report(tmp_path: Path) -> None:
    whole = scored(answers(9000, 10_000), stages=passed().stages, notes=("a note",))
    (tmp_path / "baseline.json").write_text(trimmed(whole).to_json())
    read = read_report(tmp_path / "baseline.json")
    assert (read.notes, read.stages, read.published) == ((), (), None)
    assert judged(whole, read, Goals(max_drop=0.01)).checks[0].verdict is Verdict.PASS
    assert (tmp_path / "baseline.json").stat().st_size < 8000


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*argv: str, code: int) -> str:
        assert run(commands, argv) == code
        out, err = capsys.readouterr()
        return out + err

    for name, right in (("good", 1800), ("worse", 1500), ("alike", 1795)):
        (tmp_path / f"{name}.json").write_text(scored(answers(right)).to_json())
    report, file = (
        {name: str(tmp_path / f"{name}.json") for name in ("good", "worse", "alike")},
        str(tmp_path / "base.json"),
    )
    assert "judge by it: mmdeploy gate --baseline" in said("baseline", "accept", report["good"], "--to", file, code=0)
    told = said("gate", report["worse"], "--baseline", file, "--max-drop", "0.01", code=1)
    assert "fail     top1 drop" in told and "300 of the same 2000 samples worse, 0 better" in told
    assert said("gate", report["alike"], "--baseline", file, "--max-drop", "0.02", code=0).endswith(f"against {file}\n")
    found = json.loads(said("gate", report["alike"], "--baseline", file, "--max-drop", "0.003", "--json", code=5))
    assert found["verdict"] == "inconclusive" and found["checks"][1]["limit"] == "<= 0.003"
    assert "give a limit" in said("gate", report["good"], "--baseline", file, code=2)
    for limit in (["--max-drop", "0"], []):  # what is wrong with the baseline is told first
        assert "cannot be read" in said("gate", report["good"], "--baseline", "gone.json", *limit, code=2)
    assert "say what to do: accept" in said("baseline", code=2)
    (tmp_path / "locked").mkdir()
    assert "cannot write" in said("baseline", "accept", report["good"], "--to", str(tmp_path / "no/folder"), code=3)
    assert sorted(path.name for path in tmp_path.glob("*.new")) == []


def test_a_release_that_was_changed_is_no_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release, file = tmp_path / "release", tmp_path / "baseline.json"
    release.mkdir()
    (release / "report.json").write_text(scored(answers(1800)).to_json())
    write_manifest(release, "pair")
    accept = ["baseline", "accept", str(release), "--to", str(file)]
    assert run(commands, accept) == 0
    file.unlink()
    (release / "report.json").write_text(scored(answers(1900)).to_json())
    assert run(commands, accept) == 3
    assert "report.json was changed" in capsys.readouterr().err
    assert not file.exists()


def test_each_check_of_accuracy_says_what_its_samples_can_show() -> None:
    build = scored(answers(1800))
    found = judged(scored(answers(1795)), build, Goals(max_drop=0.02, max_relative_drop=0.02, min_gain=0.0))
    shown = found.details[RESOLUTION]
    assert [*shown] == ["top1 drop", "top1 relative drop", "top1 gain"]
    assert shown["top1 drop"]["confidence"] == 0.95
    effect = shown["top1 drop"]["smallest_effect"]
    assert 0.002 < effect < 0.01 and shown["top1 relative drop"]["smallest_effect"] == pytest.approx(effect / 0.9)
    assert f"a change below {effect:.3g} cannot be told here" in found.checks[0].note


def with_hardware(**fields: object) -> BuildReport:
    build = scored(answers(1800))
    return build.model_copy(update={"hardware": replace(build.hardware, **fields)})


WITHOUT_DOTS = ("avx2",)


@pytest.mark.parametrize(
    ("other", "goals", "said"),
    [
        (with_hardware(isa=WITHOUT_DOTS), Goals(max_drop=0.1), "without INT8 dot products"),
        (with_hardware(isa=("i8mm", "asimddp")), Goals(min_gain=0.1), "judged on Arm with INT8 dot products"),
        (with_hardware(isa=WITHOUT_DOTS), Goals(max_size_ratio=1.1), None),
        (with_hardware(isa=(*passed().hardware.isa, "avx512f")), Goals(max_drop=0.1), None),
        (with_hardware(cpu="another", cores=8), Goals(max_drop=0.1, max_size_ratio=1.1), None),
        (with_hardware(cores=8), Goals(max_latency_ratio=1.1), "measured on another machine"),
        (with_hardware(memory_bytes=1), Goals(max_latency_ratio=1.1), None),
        (scored(answers(1800), target=Target.TENSORRT), Goals(max_size_ratio=1.1), "built for tensorrt, this for cpu"),
        (scored(answers(1800), target=Target.TENSORRT), Goals(max_drop=0.1), None),
        (scored(answers(1800), substitute="no GPU", verdict=Verdict.PASS), Goals(max_drop=0.1), "by a substitute"),
        (scored(answers(1800), content="d"), Goals(max_drop=0.1), "other evaluation samples"),
        (scored(answers(1800), content="d"), Goals(max_size_ratio=1.1), None),
        (scored(answers(1800), verdict=Verdict.FAIL), Goals(max_size_ratio=1.1), "came to fail: only one that passed"),
    ],
)
def test_what_differs_is_refused_for_what_it_makes_incomparable(
    other: BuildReport, goals: Goals, said: str | None
) -> None:
    build = scored(answers(1800))
    if said is None:
        assert judged(build, other, goals).checks
        return
    with pytest.raises(UsageError, match=said):
        judged(build, other, goals)


def test_all_that_cannot_be_compared_is_told_at_once() -> None:
    other = scored(answers(1800), content="d", target=Target.TENSORRT)
    with pytest.raises(UsageError, match=r"(?s)other evaluation samples.*built for tensorrt"):
        judged(scored(answers(1800)), other, Goals(max_drop=0.1, max_size_ratio=1.1))


def test_latency_measured_in_turns_stands_for_what_the_reports_say() -> None:
    elsewhere, check = with_hardware(cpu="another"), Check("p50 ratio", 1.0, "<= 1.1", Verdict.PASS, (0.9, 1.05))
    found = judged(scored(answers(1800)), elsewhere, Goals(max_latency_ratio=1.1), (check,))
    assert found.checks == (check,)
