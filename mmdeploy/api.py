"""The Python API: what ``mmdeploy plan`` and ``mmdeploy build`` do, as functions."""

from __future__ import annotations

from pathlib import Path

from mmdeploy.builder import Outcome, Settings, run_build
from mmdeploy.fingerprints import take_fingerprints
from mmdeploy.observer import Observer, Silent
from mmdeploy.planner import make_plan
from mmdeploy.recipe import Recipe
from mmdeploy.report import write_all
from mmdeploy.steps import Decision, explain
from mmdeploy.store import Store


def plan(recipe: Recipe, *, workdir: Path = Path(".mmdeploy")) -> tuple[Decision, ...]:
    """Say for each step of a recipe whether a build would run or reuse it, and why."""
    return explain(make_plan(recipe, take_fingerprints(recipe)), Store(workdir / "store"))


def build(recipe: Recipe, settings: Settings | None = None, observer: Observer | None = None) -> Outcome:
    """Build a recipe, judge what is served, publish it if it passes, and write the reports.

    A gate that says no is a result: see ``outcome.report.verdict``. Steps run in processes of their own that import
    the calling script, as `multiprocessing` does: call this under ``if __name__ == "__main__":``.

    Raises:
        MmdeployError: If a step failed; the reports have been written.
    """
    outcome = run_build(recipe, settings or Settings(), observer or Silent())
    write_all(outcome.report, outcome.folder)
    if outcome.error is not None:
        raise outcome.error
    return outcome
