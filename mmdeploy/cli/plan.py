"""``mmdeploy plan``: show what a build would run or reuse, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import (
    json_option,
    no_cache_option,
    only_option,
    recipe_argument,
    set_option,
    workdir_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmdeploy.core.store import Store
    from mmdeploy.planning.steps import Decision


@click.command()
@recipe_argument
@set_option
@workdir_option
@only_option
@no_cache_option
@json_option
def command(
    *, recipe: Path, overrides: tuple[str, ...], workdir: Path, only: str | None, no_cache: bool, as_json: bool
) -> None:
    """Show what a build would run or reuse, and why.

    Runs nothing of the recipe: files are digested, imports are followed without executing them, and what the recipe's
    code reads is known from when it ran last.

    \b
    Example:
      mmdeploy plan recipes/spoken_digits/recipe.yaml
      mmdeploy plan recipe.yaml --set components.fusion.quantize.samples=64
      mmdeploy plan recipe.yaml --only fusion/quantize
    """  # noqa: D301
    from mmdeploy.core.store import Store
    from mmdeploy.planning.fingerprints import take_fingerprints
    from mmdeploy.planning.planner import make_plan
    from mmdeploy.planning.steps import explain, recorded_in
    from mmdeploy.recipe.loader import load_recipe

    loaded = load_recipe(recipe, overrides)
    store = Store(workdir / "store")
    plan = make_plan(loaded, take_fingerprints(loaded, store), contents=recorded_in(store))
    plan = plan if only is None else plan.upto(only)
    decisions = explain(plan, store, fresh=no_cache)
    store.facts.save()
    if as_json:
        steps = {step["id"]: step for step in plan.to_json()["steps"]}
        for decision in decisions:
            steps[decision.step.id] |= {"reuse": decision.reuse, "perhaps": decision.perhaps, "why": decision.why}
        click.echo(json.dumps({"recipe": plan.recipe, "steps": list(steps.values())}, indent=2))
    else:
        click.echo(_table(decisions))
        for line in _covered(decisions, store):
            click.echo(line)


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
    from mmdeploy.cli.text import table

    rows = [(decision.step.id, decision.step.method, _what_to_do(decision), decision.why) for decision in decisions]
    done = [_what_to_do(decision) for decision in decisions]
    perhaps = f"{done.count('perhaps')} to run if the samples are others, " if "perhaps" in done else ""
    counts = f"{done.count('run')} to run, {perhaps}{done.count('reuse')} to reuse"
    return f"{table(('step', 'method', 'do', 'why'), rows)}\n\n{counts}"


def _what_to_do(decision: Decision) -> str:
    if decision.reuse:
        return "reuse"
    return "perhaps" if decision.perhaps else "run"
