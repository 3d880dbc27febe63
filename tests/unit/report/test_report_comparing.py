"""Two builds side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
from report_samples import failed, passed

from mmdeploy.baseline.accepted import trimmed
from mmdeploy.building.provenance import PROVENANCE
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import BuildReport, CheckRecord, GateRecord, StepRecord
from mmdeploy.report.comparing import compared
from mmdeploy.scoring.kept import KEPT, kept

BEFORE = np.array([1, 1, 1, 1, 0, 1, 1, 1], float)
AFTER = np.array([1, 0, 1, 0, 1, 0, 1, 1], float)


def judged(scores: np.ndarray | None, *, content: str = "c", metric: str = "top1", **fields: object) -> BuildReport:
    """Return a report whose accuracy gate scored samples of some content so."""
    details = {"metric": metric, "source": metric, "outputs": ["logits"], "arguments": {}, "larger_is_better": True,
               "confidence": 0.95}  # fmt: skip
    check = CheckRecord(name=metric, measured=0.5, limit=">= 0.1", verdict=Verdict.PASS)
    keeping = {} if scores is None else {KEPT: kept(scores)}
    gate = GateRecord(gate="accuracy", verdict=Verdict.PASS, checks=(check,), details=details | keeping)
    data = StepRecord(id="data/evaluation", component="data", kind="samples", method="samples", status="ran",
                      metadata={"content": content})  # fmt: skip
    steps = (*(step for step in passed().steps if step.id != "data/evaluation"), data)
    return passed().model_copy(update={"gates": (gate,), "steps": steps, **fields})


def test_a_build_against_itself_differs_in_nothing() -> None:
    found = compared(passed(), passed(), ({"a": 1}, {"a": 1}))
    assert (found.recipe, found.surroundings, found.steps, found.precision, found.sizes) == ((),) * 5
    assert all(one.before == one.after and "→" not in one.verdicts for one in found.figures)


def test_what_became_of_the_gates() -> None:
    found = compared(passed(), failed())
    changed = {one.what: one.verdicts for one in found.figures if "→" in one.verdicts}
    assert "pass → fail" in changed.values()
    assert found.builds[0].endswith("pass") and found.builds[1].endswith("fail")


def test_samples_that_flipped_and_how_sure_the_drop_is() -> None:
    (flips,) = compared(judged(BEFORE), judged(AFTER)).flips
    assert (flips.worse, flips.better) == ((1, 3, 5), (4,))
    assert (flips.samples, flips.worse_count, flips.better_count, flips.drop) == (8, 3, 1, 0.25)
    assert flips.interval[0] < 0.25 < flips.interval[1]


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (judged(AFTER, content="d"), "top1: they were judged on other samples"),
        (judged(None), "top1: it gives no score to each sample"),
        (judged(AFTER[:3]), "top1: it gives no score to each sample"),
        (judged(AFTER, metric="f1_macro"), "Only the first build was judged by top1."),
    ],
)
def test_samples_that_cannot_be_compared_are_told(after: BuildReport, why: str) -> None:
    found = compared(judged(BEFORE), after)
    assert not found.flips and any(one.startswith(why) for one in found.incomparable)


def test_a_baseline_keeps_no_steps_and_that_is_told() -> None:
    found = compared(trimmed(passed()), passed())
    assert (found.whole, found.steps, found.precision) == (False, (), ())
    assert any("baseline" in sentence for sentence in found.incomparable)


def test_recipes_are_compared_value_by_value() -> None:
    one = {"components": {"fusion": {"quantize": {"samples": 64}}}, "gates": [{"method": "size"}], "outputs": []}
    other = {"components": {"fusion": {}}, "gates": [{"method": "latency"}, {"method": "size"}], "outputs": []}
    found = {(diff.what, diff.before, diff.after) for diff in compared(passed(), passed(), (one, other)).recipe}
    assert found == {
        ("components.fusion.quantize.samples", "64", ""), ("components.fusion", "", "{}"),
        ("gates.0.method", "size", "latency"), ("gates.1.method", "", "size"),
    }  # fmt: skip


def test_the_command_prints_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, scores, samples in (("one", BEFORE, 64), ("two", AFTER, 128)):
        folder = tmp_path / name
        folder.mkdir()
        libraries = passed().libraries | {"torch": name}
        (folder / "report.json").write_text(judged(scores, libraries=libraries).to_json())
        recipe = {"quantize": {"samples": samples}}
        definition = {"externalParameters": {"recipe_as_built": recipe}}
        (folder / PROVENANCE).write_text(json.dumps({"predicate": {"buildDefinition": definition}}))
    argv = ["compare", str(tmp_path / "one"), str(tmp_path / "two" / "report.json")]
    assert run(commands, argv) == 0
    shown = capsys.readouterr().out
    assert "quantize.samples  64      128" in shown
    assert "top1, the same 8 samples: 3 worse, 1 better; drop 0.25, interval" in shown
    assert "  worse: 1, 3, 5\n  better: 4\n" in shown
    assert run(commands, [*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["surroundings"] == [{"what": "torch", "before": "one", "after": "two"}]
    assert run(commands, ["compare", str(tmp_path / "one"), str(tmp_path / "three")]) == 2
    assert "cannot be read" in capsys.readouterr().err
