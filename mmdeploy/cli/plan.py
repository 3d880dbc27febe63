"""``mmdeploy plan``: show what a build would run or reuse, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.options import (
    no_cache_option,
    only_option,
    recipe_argument,
    set_option,
    store_option,
    workdir_option,
)
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import table, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmdeploy.core.shared_store import SharedStore
    from mmdeploy.core.store import Store
    from mmdeploy.planning.steps import Decision, Plan
    from mmdeploy.recipe.schema import Recipe


@click.command()
@recipe_argument
@set_option
@workdir_option
@store_option
@only_option
@no_cache_option
@output_options(quiet="the ids of the steps that would run, one a line")
def command(
    *,
    recipe: Path,
    overrides: tuple[str, ...],
    workdir: Path,
    shared: SharedStore | None,
    only: str | None,
    no_cache: bool,
    output: Output,
) -> None:
    """Show what a build would run or reuse, and why.

    Runs nothing of the recipe: files are digested, imports are followed without executing them, and what the recipe's
    code reads is known from when it ran last. With --store that may have been on another machine, and so may what is
    to be reused.

    \b
    Example:
      mmdeploy plan recipes/spoken_digits/recipe.yaml
      mmdeploy plan recipe.yaml --set components.fusion.quantize.samples=64
      mmdeploy plan recipe.yaml --only fusion/quantize
    """  # noqa: D301
    from mmdeploy.core.store import Store
    from mmdeploy.planning.known_plan import take_plan
    from mmdeploy.planning.steps import explain, only_step
    from mmdeploy.recipe.loader import load_recipe

    loaded = load_recipe(recipe, overrides)
    store = Store(workdir / "store", shared)
    _, plan = take_plan(loaded, store, upto=only_step(only))
    decisions = explain(plan, store, fresh=no_cache)
    store.facts.save()
    judged = [] if loaded.baseline is None else [wrapped(f"judged by its gates, and against {loaded.baseline}")]
    output.answer(
        text=lambda: "\n".join([_table(decisions), *judged, *map(wrapped, _covered(decisions, store))]),
        fields=lambda: _fields(loaded, plan, decisions),
        quiet=[decision.step.id for decision in decisions if not decision.reuse],
    )


def _fields(recipe: Recipe, plan: Plan, decisions: tuple[Decision, ...]) -> dict[str, Any]:
    steps = {step["id"]: step for step in plan.to_json()["steps"]}
    for decision in decisions:
        steps[decision.step.id] |= {"reuse": decision.reuse, "perhaps": decision.perhaps, "why": decision.why}
    told = {} if recipe.baseline is None else {"baseline": recipe.baseline.model_dump(mode="json")}
    return {"recipe": plan.recipe, "steps": list(steps.values()), **told}


def _covered(decisions: tuple[Decision, ...], store: Store) -> Iterator[str]:
    """Say of each quantization that the store has how much is in INT8."""
    from mmdeploy.core.facts import find
    from mmdeploy.quantize.coverage import COVERAGE, Coverage
    from mmdeploy.report.coverage import Row, cells

    for decision in decisions:
        if decision.step.kind != "quantize" or not decision.reuse:
            continue
        found = find(Coverage, store.metadata(decision.step.key), under=COVERAGE)
        if found is not None:
            yield Row(cells(decision.step.id, found)).sentence


def _table(decisions: tuple[Decision, ...]) -> str:
    rows = [(decision.step.id, decision.step.method, _what_to_do(decision), decision.why) for decision in decisions]
    done = [_what_to_do(decision) for decision in decisions]
    perhaps = f"{done.count('perhaps')} to run if the samples are others, " if "perhaps" in done else ""
    counts = f"{done.count('run')} to run, {perhaps}{done.count('reuse')} to reuse"
    return f"{table(('step', 'method', 'do', 'why'), rows)}\n\n{counts}"


def _what_to_do(decision: Decision) -> str:
    if decision.reuse:
        return "reuse"
    return "perhaps" if decision.perhaps else "run"
