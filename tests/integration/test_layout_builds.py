"""Components as one model: the same names, gates and answers; and measured where the recipe leaves it open."""

from pathlib import Path

import pytest
import yaml

import mmdeploy
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.record.observer import Silent
from mmdeploy.triton.lint import lint

pytestmark = [pytest.mark.slow, pytest.mark.triton, pytest.mark.xdist_group("builds")]


def build(recipe: Path, workdir: Path, *overrides: str) -> Outcome:
    loaded = mmdeploy.load_recipe(recipe, overrides)
    settings = Settings(workdir=workdir, destination=recipe.parents[1] / "published")
    outcome = run_build(loaded, settings, Silent())
    if outcome.error is not None:
        raise outcome.error
    return outcome


def models(outcome: Outcome) -> set[str]:
    assert outcome.report.published is not None
    return {path.parent.name for path in outcome.report.published.glob("*/config.pbtxt")}


def test_components_are_one_model_behind_the_same_name(tiny_recipe: Path, shared_workdir: Path) -> None:
    outcome = build(tiny_recipe, shared_workdir, "layout=single", "components.left.serving.guard=graph",
                    "components.right.serving.guard=graph")  # fmt: skip
    report = outcome.report
    assert report.verdict == "pass"
    assert models(outcome) == {"two_towers", "two_towers.single"}
    assert report.published is not None and lint(report.published) == ()
    parity = next(gate for gate in report.gates if gate.gate == "parity")
    assert {check.name.partition(":")[0] for check in parity.checks} == {"end to end"}
    assert {step.id for step in report.steps if step.component == "single"} == {"single/engine", "single/reference"}
    assert report.plain_recipe is None, "nothing was left open"


def test_what_is_left_open_is_measured_and_written_down(tiny_recipe: Path, shared_workdir: Path) -> None:
    outcome = build(tiny_recipe, shared_workdir, "layout=auto", "gates=[{method: size, max_ratio_to_reference: 9}]")
    [note] = [note for note in outcome.report.notes if note.startswith("Layout: ")]
    assert "as fast as the ensemble (p50 of 1 client, " in note
    single = "Layout: one model" in note
    assert ("two_towers.single" in models(outcome)) == single
    assert outcome.report.plain_recipe is not None
    assert yaml.safe_load(outcome.report.plain_recipe.read_text())["layout"] == ("single" if single else "ensemble")
    assert not (outcome.folder / "layout").exists()


def test_engines_that_differ_stay_an_ensemble_and_the_report_says_why(tiny_recipe: Path, shared_workdir: Path) -> None:
    outcome = build(tiny_recipe, shared_workdir, "layout=auto", "components.left.engine={method: openvino}",
                    "gates=[{method: size, max_ratio_to_reference: 9}]")  # fmt: skip
    [note] = [note for note in outcome.report.notes if note.startswith("Layout: ")]
    assert note == (
        "Layout: an ensemble: components.right.engine: one model has one engine, and this one differs from another "
        "component's."
    )
    assert len(models(outcome)) == 4
