"""``mmdeploy sensitivity``: measure what quantizing each layer group alone costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import jobs_option, recipe_argument, set_option, store_option, workdir_option
from mmdeploy.cli.output import Output, output_options

if TYPE_CHECKING:
    from mmdeploy.core.shared_store import SharedStore
    from mmdeploy.record.build_report import BuildReport


@click.command()
@recipe_argument
@set_option
@workdir_option
@store_option
@click.option("--component", metavar="NAME", help="Measure only this component.")
@jobs_option
@output_options(quiet="nothing; the files are in the run's folder")
def command(
    *,
    recipe: Path,
    overrides: tuple[str, ...],
    workdir: Path,
    shared: SharedStore | None,
    component: str | None,
    jobs: int | None,
    output: Output,
) -> None:
    """Measure what quantizing each layer group alone does to the answers of the whole ensemble.

    Needs data.calibration and data.validation. Exports and measurements are taken from the store where nothing changed;
    what is interrupted goes on where it was. Groups are ranked by the drop of the task's metric, then by noise.

    \b
    Example:
      mmdeploy sensitivity recipes/spoken_digits/recipe.yaml
      mmdeploy sensitivity recipe.yaml --component fusion \\
        --set components.fusion.quantize.calibrator=minmax
    """  # noqa: D301
    from mmdeploy.api import sensitivity
    from mmdeploy.building.settings import Settings
    from mmdeploy.recipe.loader import load_recipe

    loaded = load_recipe(recipe, overrides)
    with output.display(on_stderr=False) as display:
        outcome = sensitivity(loaded, Settings(workdir=workdir, jobs=jobs, shared=shared), display, component=component)
    figures = outcome.folder / "sensitivity.json"
    if output.as_json:
        output.document(json.loads(figures.read_text(encoding="utf-8")))
        return
    output.tell(f"{_tables(outcome.report)}\nplots: {figures.with_suffix('.html')}\nfigures: {figures}")


def _tables(report: BuildReport) -> str:
    from mmdeploy.cli.text import table
    from mmdeploy.report import sensitivities

    parts = []
    for component, measured in sensitivities.sensitivities(report):
        samples = measured.sensitivity[0].samples
        parts.append(
            f"\n{component}: each layer group alone in INT8, {measured.metric} on {samples} samples, worst first"
        )
        parts.append(table(sensitivities.HEAD, sensitivities.rows(measured)))
    return "\n".join([*parts, ""])
