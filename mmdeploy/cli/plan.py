"""``mmdeploy plan``: show what a build would run or reuse, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import json_option, recipe_argument, set_option, workdir_option

if TYPE_CHECKING:
    from mmdeploy.planning.steps import Decision


@click.command()
@recipe_argument
@set_option
@workdir_option
@json_option
def command(recipe: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool) -> None:
    """Show what a build would run or reuse, and why.

    Runs nothing of the recipe: files are digested, imports are followed without executing them.

    \b
    Example:
      mmdeploy plan recipes/spoken_digits/recipe.yaml
      mmdeploy plan recipe.yaml --set components.fusion.quantize.samples=64
    """  # noqa: D301
    from mmdeploy.core.store import Store
    from mmdeploy.planning.fingerprints import take_fingerprints
    from mmdeploy.planning.planner import make_plan
    from mmdeploy.planning.steps import explain
    from mmdeploy.recipe.loader import load_recipe

    loaded = load_recipe(recipe, overrides)
    plan = make_plan(loaded, take_fingerprints(loaded))
    decisions = explain(plan, Store(workdir / "store"))
    if as_json:
        steps = {step["id"]: step for step in plan.to_json()["steps"]}
        for decision in decisions:
            steps[decision.step.id] |= {"reuse": decision.reuse, "why": decision.why}
        click.echo(json.dumps({"recipe": plan.recipe, "steps": list(steps.values())}, indent=2))
    else:
        click.echo(_table(decisions))


def _table(decisions: tuple[Decision, ...]) -> str:
    from mmdeploy.cli.text import table

    rows = [
        (decision.step.id, decision.step.method, "reuse" if decision.reuse else "run", decision.why)
        for decision in decisions
    ]
    running = sum(not decision.reuse for decision in decisions)
    counts = f"{running} to run, {len(decisions) - running} to reuse"
    return f"{table(('step', 'method', 'do', 'why'), rows)}\n\n{counts}"
