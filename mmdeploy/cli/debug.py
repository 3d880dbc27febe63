"""``mmdeploy debug``: compare a component's graphs and engines tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli import completion
from mmdeploy.cli.options import jobs_option, recipe_argument, set_option, store_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_PASS, EXIT_STEP_FAILED

if TYPE_CHECKING:
    from mmdeploy.core.shared_store import SharedStore
    from mmdeploy.debugging.figures import Tolerance
    from mmdeploy.debugging.findings import DebugReport


@click.command(
    epilog="Exit codes: 0 each tensor within its tolerance, 1 one leaves it, 2 wrong recipe or command line, 3 a step "
    "failed and no tensor tells why, 4 this environment cannot do it."
)
@recipe_argument
@click.argument("component", shell_complete=completion.components)
@set_option
@workdir_option
@store_option
@click.option("--samples", type=click.IntRange(1), default=16, show_default=True, help="Samples to compare on.")
@click.option("--min-sqnr-db", type=float, help="The least that every tensor must keep, instead of each form's own.")
@click.option("--rtol", type=click.FloatRange(0), help="Let elements pass that differ by this part of themselves.")
@click.option("--atol", type=click.FloatRange(0), help="Let elements pass that differ by this much.")
@click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write reports and reproductions to; by default the run's.",
)
@jobs_option
@output_options(quiet="the name of the first tensor that leaves its tolerance")
def command(
    *,
    recipe: Path,
    component: str,
    overrides: tuple[str, ...],
    workdir: Path,
    shared: SharedStore | None,
    samples: int,
    min_sqnr_db: float | None,
    rtol: float | None,
    atol: float | None,
    folder: Path | None,
    jobs: int | None,
    output: Output,
) -> int:
    """Compare a component's graphs and engines tensor by tensor, and name the first that leaves its tolerance.

    PyTorch, the exported graph, the INT8 graph and each engine, each against the one before, on the recipe's own
    samples. What is missing is built first, as a build would. Of the first bad tensor the smallest piece of the graph
    that shows the fault is written, with the command of Polygraphy that shows it again.

    \b
    Example:
      mmdeploy debug recipes/spoken_digits/recipe.yaml fusion
      mmdeploy debug recipe.yaml image_encoder --min-sqnr-db 25 --output found
    """  # noqa: D301
    from mmdeploy.api import debug
    from mmdeploy.building.settings import Settings
    from mmdeploy.debugging.run import JSON, MARKDOWN, DebugSettings
    from mmdeploy.recipe.loader import load_recipe

    how = DebugSettings(samples, _tolerance(min_sqnr_db, rtol, atol), folder)
    loaded = load_recipe(recipe, overrides)
    with output.display(on_stderr=False) as display:
        report, written = debug(
            loaded, component, Settings(workdir=workdir, jobs=jobs, shared=shared), display, how=how
        )
    output.answer(
        text=lambda: f"{_told(report)}\n\nreport: {written / MARKDOWN}\nfigures: {written / JSON}",
        fields=lambda: json.loads((written / JSON).read_text(encoding="utf-8")),
    )
    if not report.within:
        return EXIT_GATE_FAILED
    return EXIT_STEP_FAILED if report.failed else EXIT_PASS


def _tolerance(min_sqnr_db: float | None, rtol: float | None, atol: float | None) -> Tolerance | None:
    from mmdeploy.debugging.figures import Tolerance

    if min_sqnr_db is not None and (rtol is not None or atol is not None):
        raise click.UsageError("--min-sqnr-db and --rtol or --atol exclude each other: tensors or elements are judged")
    if min_sqnr_db is not None:
        return Tolerance(min_sqnr_db=min_sqnr_db)
    return None if rtol is None and atol is None else Tolerance(rtol=rtol or 0.0, atol=atol or 0.0)


def _told(report: DebugReport) -> str:
    from mmdeploy.cli.text import table, wrapped
    from mmdeploy.debugging import page

    parts = [f"\n{report.component} on {report.samples} samples of {report.source}"]
    for comparison in report.comparisons:
        parts += ["", wrapped(f"{comparison.stage}: {page.verdict(comparison)}")]
        parts += [wrapped(reason, "  ") for reason in page.reasons(comparison)]
        if comparison.tensors:
            parts.append(table(page.HEAD, page.rows(comparison)))
        if comparison.reproduction is not None:
            parts.append(f"reproduce it:\n  {comparison.reproduction.command}")
    return "\n".join(parts)
