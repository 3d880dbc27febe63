"""The Python API: what ``mmdeploy plan``, ``build``, ``sensitivity`` and ``debug`` do, as functions."""

from __future__ import annotations

from pathlib import Path

from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.core.errors import StoreError, UsageError, did_you_mean
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.store import Store
from mmdeploy.debugging.findings import DebugReport
from mmdeploy.debugging.run import DebugSettings, run_debug
from mmdeploy.planning.known_plan import take_plan
from mmdeploy.planning.steps import Decision, explain, only_step
from mmdeploy.recipe.schema import Recipe
from mmdeploy.record.observer import Observer, Silent
from mmdeploy.report import unreported, write_all, write_sensitivity


def plan(
    recipe: Recipe,
    *,
    workdir: Path = Path(".mmdeploy"),
    only: str | None = None,
    fresh: bool = False,
    shared: SharedStore | None = None,
) -> tuple[Decision, ...]:
    """Say for each step of a recipe whether a build would run or reuse it, and why.

    Args:
        recipe: The recipe.
        workdir: Folder of the store.
        only: Id of the only step that is wanted; what it needs comes with it.
        fresh: Whether no stored result is reused.
        shared: Where results are that other machines made.

    Raises:
        UsageError: If there is no step ``only``.
    """
    store = Store(workdir / "store", shared)
    _, made = take_plan(recipe, store, upto=only_step(only))
    decisions = explain(made, store, fresh=fresh)
    store.facts.save()
    return decisions


def build(
    recipe: Recipe, settings: Settings | None = None, observer: Observer | None = None, *, only: str | None = None
) -> Outcome:
    """Build a recipe, judge what is served, publish it if it passes, and write the reports.

    A gate that says no is a result: see ``outcome.report.verdict``. Steps run in processes of their own that import
    the calling script, as `multiprocessing` does: call this under ``if __name__ == "__main__":``.

    Args:
        recipe: The recipe.
        settings: How.
        observer: Who watches.
        only: Id of the only step that is wanted; what it needs comes with it, and nothing is judged or published.

    Raises:
        UsageError: If there is no step ``only``.
        MmdeployError: If a step failed; the reports have been written, where there was space.
        StoreError: If the reports cannot be written; it says whether the release is live.
    """
    outcome = run_build(recipe, settings or Settings(), observer or Silent(), upto=only_step(only))
    try:
        write_all(outcome.report, outcome.folder)
    except StoreError as error:
        if outcome.error is None:
            raise unreported(error, outcome.report) from error
    if outcome.error is not None:
        raise outcome.error
    return outcome


def sensitivity(
    recipe: Recipe,
    settings: Settings | None = None,
    observer: Observer | None = None,
    *,
    component: str | None = None,
) -> Outcome:
    """Measure what quantizing each layer group alone does to the ensemble's answers; nothing is judged or published.

    The result is in the metadata of the report's steps of the kind ``sensitivity``, and, as ``sensitivity.json`` and
    ``sensitivity.html``, in the run's folder. For scripts the same holds as for `build`.

    Args:
        recipe: With ``data.calibration`` and ``data.validation``.
        settings: How; what is said of publishing is of no use here.
        observer: Who watches.
        component: The only one to measure; None for all.

    Raises:
        UsageError: If the recipe names no calibration or no validation data, or has no such component.
        MmdeployError: If a step failed.
    """
    for key, use in (("calibration", "ranges are taken from"), ("validation", "answers are scored on, with labels")):
        if getattr(recipe.data, key) is None:
            raise UsageError(
                f"{recipe.origin.path} names no data.{key}: samples that {use}",
                hint=f"write `{key}: data.py:{key}` under `data`, a callable that yields samples",
            )
    if component is not None and component not in recipe.components:
        raise UsageError(f"no component is called {component!r}; {did_you_mean(component, recipe.components)}")
    outcome = run_build(
        recipe,
        settings or Settings(),
        observer or Silent(),
        goal="sensitivity",
        upto=only_step(component and f"{component}/sensitivity"),
    )
    if outcome.error is not None:
        raise outcome.error
    write_sensitivity(outcome.report, outcome.folder)
    return outcome


def debug(
    recipe: Recipe,
    component: str,
    settings: Settings | None = None,
    observer: Observer | None = None,
    *,
    how: DebugSettings | None = None,
) -> tuple[DebugReport, Path]:
    """Compare a component's graphs and engines tensor by tensor; nothing is judged or published.

    Args:
        recipe: The recipe.
        component: The component.
        settings: How to build what is missing; what is said of publishing is of no use here.
        observer: Who watches.
        how: On how many samples, and what a tensor may differ by.

    Returns:
        What was found, and the folder with ``debug.json``, ``debug.md`` and, of each comparison with a tensor that
        leaves its tolerance, the reduced graph that shows it. For scripts the same holds as for `build`.

    Raises:
        UsageError: If the recipe has no such component.
        EnvironmentUnfitError: If Polygraphy is missing.
        MmdeployError: If a step that is not the component's failed, or nothing can be compared.
    """
    return run_debug(recipe, component, settings or Settings(), observer or Silent(), how or DebugSettings())
