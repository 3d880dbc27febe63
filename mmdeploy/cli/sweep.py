"""``mmdeploy sweep``: search over a recipe's settings by building it many times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import on_option, recipe_argument, store_option, workdir_option
from mmdeploy.cli.output import Output, output_options

if TYPE_CHECKING:
    from mmdeploy.core.shared_store import SharedStore
    from mmdeploy.studies.found import Found
    from mmdeploy.studies.proposals import Sampler
    from mmdeploy.studies.space import Space
    from mmdeploy.studies.trial import Trial

#: Length of a reason in a line.
_REASON = 60


@click.command()
@recipe_argument
@click.option(
    "--set",
    "options",
    metavar="PATH=VALUES",
    multiple=True,
    help="What to vary: choices a,b, a range 0.2..0.6, in steps 8..64:8, by orders of magnitude log:1e-5..1e-2. One "
    "value holds for all trials. A path such as quantize.calibrator means all components that have it. Repeatable.",
)
@click.option("--budget", type=click.IntRange(1), default=20, show_default=True, help="Builds, earlier ones included.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Begin no build after so long.")
@click.option(
    "--objective",
    "objectives",
    metavar="NAMES",
    help="What to compare: of accuracy, latency, bytes, parity. By default the first three that are measured.",
)
@click.option("--prefer", metavar="NAME", help="Objective that counts most when one of the front is chosen.")
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "nsga2", "random", "grid"]),
    default="tpe",
    show_default=True,
    help="Who proposes; a space that the budget is enough for is built whole.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the search.")
@click.option("--name", default="", help="Of the study; the recipe's by default.")
@click.option("--anew", is_flag=True, help="Set an earlier study of the name aside, and begin anew.")
@click.option("--jobs", type=click.IntRange(1), help="Steps of a build at once.")
@click.option("--dry-run", is_flag=True, help="Check the space, say what it holds, and build nothing.")
@workdir_option
@store_option
@on_option
@output_options(quiet="the command that builds the chosen trial")
def command(
    *,
    recipe: Path,
    options: tuple[str, ...],
    budget: int,
    hours: float | None,
    objectives: str | None,
    prefer: str | None,
    sampler: Sampler,
    seed: int,
    name: str,
    anew: bool,
    jobs: int | None,
    dry_run: bool,
    workdir: Path,
    shared: SharedStore | None,
    on: str | None,
    output: Output,
) -> int | None:
    """Search over a recipe's settings; every trial is a build that shares the store.

    Optuna proposes, and what is served and judged says what a trial is worth: the drop of the metric, latency over the
    FP32 reference, bytes. The same command goes on with a search that was interrupted. Nothing is published: each point
    of the front is a recipe that mmdeploy build builds without searching. Exit code 1 where a gate refuses all of
    them, 5 where none could be decided.

    \b
    Example:
      mmdeploy sweep recipe.yaml --set quantize.calibrator=minmax,mse --budget 10
      mmdeploy sweep recipe.yaml \\
        --set components.audio_encoder.prune.ratio=0.2..0.6
    """  # noqa: D301
    from mmdeploy.studies.objectives import chosen_objectives
    from mmdeploy.studies.page import write_pages
    from mmdeploy.studies.space import read_space
    from mmdeploy.studies.study import require_optuna
    from mmdeploy.studies.sweep import SweepSettings, run_sweep

    require_optuna()
    space, loaded = read_space(options, recipe)
    asked = tuple(one.strip() for one in objectives.split(",")) if objectives else ()
    names, left_out = chosen_objectives(asked, loaded)
    if prefer is not None and prefer not in names:
        raise click.UsageError(f"--prefer {prefer}: the objectives are {', '.join(names)}")
    output.step(_space_text(space, names, left_out, budget))
    if dry_run:
        if output.as_json:
            output.document({"objectives": names, "options": {one.option: str(one.domain) for one in space.dimensions}})
        return None
    settings = SweepSettings(
        workdir, name=name, budget=budget, hours=hours, seed=seed, sampler=sampler, prefer=prefer, anew=anew, jobs=jobs,
        shared=shared, on=on,
    )  # fmt: skip
    found = run_sweep(
        loaded, space, names, settings, lambda trial, built: output.progress(_tried(trial, built, budget))
    )
    files = write_pages(found)
    output.answer(
        text=lambda: _told(found, files),
        fields=found.to_json,
        quiet=[] if found.chosen is None else [found.build_command(found.chosen)],
    )
    return found.exit_code


def _space_text(space: Space, objectives: tuple[str, ...], left_out: tuple[str, ...], budget: int) -> str:
    from mmdeploy.cli.text import wrapped
    from mmdeploy.studies.objectives import OBJECTIVES

    lines = []
    for one in space.dimensions:
        meant = [path.split(".")[1] for path in one.paths] if one.paths != (one.option,) else []
        lines.append(f"{one.option}: {one.domain}" + (f" (in {', '.join(meant)})" if meant else ""))
    lines += [f"for all trials: {fixed}" for fixed in space.fixed]
    lines.append(f"compared: {', '.join(objectives)}")
    lines += [
        wrapped(f"{name} is not compared: the recipe has no gate {OBJECTIVES[name].gate} that measures it")
        for name in left_out
    ]
    if space.size is not None and space.size <= budget:
        lines.append(f"{space.size} points: all of them are built")
    return "\n".join([*lines, ""])


def _tried(trial: Trial, built: int, budget: int) -> str:
    from mmdeploy.studies.found import figure_text
    from mmdeploy.studies.trial import words

    told = [f"{name} {figure_text(name, one, interval=False)}" for name, one in trial.figures.items()]
    told += [f"{trial.ran} of {trial.steps} steps ran in {trial.seconds:.0f} s"] if trial.steps else []
    told += [_cut(trial.reason)] if trial.reason else []
    return f"[{built}/{budget}] {words(trial.point, short=True)}\n    {', '.join([trial.status, *told])}"


def _told(found: Found, files: dict[str, Path]) -> str:
    from mmdeploy.cli.text import counted, table, wrapped
    from mmdeploy.studies.objectives import OBJECTIVES

    heads = ("", "trial", "values", *(OBJECTIVES[name].title for name in found.objectives))
    best = found.chosen
    parts = []
    if found.front:
        rows = [_row(found, one, "*" if best is not None and one.number == best.number else "") for one in found.front]
        parts += [
            f"The front of {counted(len(found.passed), 'trial')} that passed; * is chosen",
            table(heads, rows),
            "",
        ]
    others = [one for one in found.counted if one.status != "passed"]
    if others:
        parts += [f"{counted(len(others), 'trial')} did not pass:"]
        parts += [f"  {one.number} {one.status}: {_cut(one.reason)}" for one in others[:10]]
        parts += [f"  and {len(others) - 10} more in {files['md'].name}"] if others[10:] else []
        parts += [""]
    parts += [wrapped(caution) for caution in found.cautions()]
    if best is not None:
        parts += [*([""] if found.cautions() else []), "Nothing is published. To build the chosen one, and publish it:",
                  f"  {found.build_command(best)}"]  # fmt: skip
    if found.interrupted:
        parts += ["interrupted: the same command goes on"]
    return "\n".join([*parts, f"report: {files['html']}"])


def _row(found: Found, trial: Trial, mark: str) -> tuple[str, ...]:
    from mmdeploy.studies.found import figure_text
    from mmdeploy.studies.trial import words

    values = "\n".join(words({name: text}, short=True) for name, text in trial.point.items())
    figures = (figure_text(name, trial.figures[name]).rstrip(")").replace(" (", "\n") for name in found.objectives)
    return (mark, str(trial.number), values, *figures)


def _cut(text: str) -> str:
    return text if len(text) <= _REASON else f"{text[: _REASON - 1]}…"
