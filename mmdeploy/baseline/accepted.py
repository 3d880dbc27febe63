"""The baseline: a report of which only that is kept what a later build is judged by, so a whole report will do, too."""

from __future__ import annotations

from pathlib import Path

from mmdeploy.baseline.comparable import require_passed
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.record.build_report import BASELINE, BuildReport
from mmdeploy.scoring.comparison import SMALLEST_EFFECT
from mmdeploy.scoring.kept import KEPT

#: What is kept of the details of an accuracy gate.
_DETAILS = (
    "metric",
    "source",
    "outputs",
    "arguments",
    "larger_is_better",
    "confidence",
    "scores",
    "score_interval",
    SMALLEST_EFFECT,
    KEPT,
)


def trimmed(report: BuildReport) -> BuildReport:
    """Return what a later build is judged by: small enough to be committed.

    Raises:
        UsageError: If the build did not pass.
    """
    require_passed(report)
    gates = tuple(
        gate.model_copy(
            update={"tables": (), "details": {key: gate.details[key] for key in _DETAILS if key in gate.details}}
        )
        for gate in report.gates
        if gate.gate != BASELINE
    )
    steps = tuple(step.model_copy(update={"log": None}) for step in report.steps if step.id == DATA_SETS["evaluation"])
    nothing = {"stages": (), "costs": (), "notes": (), "log": None, "plain_recipe": None, "staged": Path("staged")}
    kept = {"gates": gates, "steps": steps, "published": None, **nothing}
    return report.model_copy(
        update={**kept, "recipe": report.recipe.model_copy(update={"path": Path(report.recipe.path.name)})}
    )
