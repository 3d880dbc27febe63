"""Builds that are judged by an accepted one, too, with a real Triton."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import mmdeploy
from mmdeploy.baseline.accepted import trimmed
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.record.observer import Silent
from mmdeploy.report import html, junit, markdown

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]


@pytest.fixture
def build(tiny_recipe: Path, shared_workdir: Path) -> Callable[..., Outcome]:
    def run(*overrides: str) -> Outcome:
        settings = Settings(workdir=shared_workdir, destination=tiny_recipe.parents[1] / "published")
        return run_build(mmdeploy.load_recipe(tiny_recipe, overrides), settings, Silent())

    return run


def test_a_build_is_judged_by_the_baseline_of_its_recipe(
    tiny_recipe: Path, build: Callable[..., Outcome], tmp_path: Path
) -> None:
    first = build("gates.1.max_drop=0.01")
    assert first.error is None
    (few,) = (note for note in first.report.notes if "a true drop of" in note)
    assert few.startswith("accuracy: with these 128 samples"), "what was measured, in the place of what was foreseen"
    baseline = tiny_recipe.with_name("baseline.json")
    baseline.write_text(trimmed(first.report).to_json())
    kept = "baseline={file: baseline.json, max_drop: 0.2, max_size_ratio: 1.0}"
    again = build(kept)
    assert again.error is None and again.report.verdict is Verdict.PASS and again.report.published is not None
    gate = again.report.gates[-1]
    assert [check.name for check in gate.checks] == ["top1 drop", "size ratio"]
    assert {step.status for step in again.report.steps} == {"reused"}  # it is part of no key
    assert "top1 drop" in markdown.render(again.report) and "top1 drop" in html.render(again.report)
    assert 'name="gate baseline"' in junit.render(again.report)
    assert trimmed(again.report).gates[-1].gate == "accuracy"
    live = again.report.published.resolve()
    worse = build("baseline={file: baseline.json, min_gain: 0.3}")
    assert worse.report.verdict is Verdict.FAIL and worse.report.exit_code == 1 and worse.report.published is None
    assert again.report.published.resolve() == live
    assert "mmdeploy compare" in worse.report.gates[-1].advice
    content = json.loads(baseline.read_text())
    content["hardware"]["isa"] = ["avx2"]
    baseline.write_text(json.dumps(content))
    refused = build("baseline={file: baseline.json, max_drop: 0.1}")
    assert isinstance(refused.error, UsageError) and "INT8 dot products" in refused.error.message
    assert refused.report.exit_code == 2 and {step.status for step in refused.report.steps} == {"skipped"}
    content = json.loads(trimmed(first.report).to_json())
    content["steps"][0]["metadata"]["content"] = "0" * 64
    baseline.write_text(json.dumps(content))
    other = build("baseline={file: baseline.json, max_drop: 0.1}")
    assert isinstance(other.error, UsageError) and "other evaluation samples" in other.error.message
    assert other.report.server_version is None  # before anything was served
