"""``mmdeploy sensitivity``: measure what quantizing each layer group alone costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import json_option, recipe_argument, set_option, workdir_option

if TYPE_CHECKING:
    from mmdeploy.record.build_report import BuildReport


@click.command()
@recipe_argument
@set_option
@workdir_option
@click.option("--component", metavar="NAME", help="Measure only this component.")
@click.option("--jobs", type=click.IntRange(1), help="Steps at once; as many as there are cores by default.")
@json_option
def command(
    *,
    recipe: Path,
    overrides: tuple[str, ...],
    workdir: Path,
    component: str | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Measure what quantizing each layer group alone does to the answers of the whole ensemble.

    Needs data.calibration and data.validation. Exports and measurements are taken from the store where nothing changed;
    what is interrupted goes on where it was. Groups are ranked by the drop of the task's metric, then by noise.

    \b
    Example:
      mmdeploy sensitivity recipes/spoken_digits/recipe.yaml
      mmdeploy sensitivity recipe.yaml --component fusion --set components.fusion.quantize.calibrator=minmax
    """  # noqa: D301
    from rich.console import Console

    from mmdeploy.api import sensitivity
    from mmdeploy.building.settings import Settings
    from mmdeploy.recipe.loader import load_recipe
    from mmdeploy.report.display import BuildDisplay

    loaded = load_recipe(recipe, overrides)
    with BuildDisplay(Console(stderr=as_json)) as display:
        outcome = sensitivity(loaded, Settings(workdir=workdir, jobs=jobs), display, component=component)
    if as_json:
        click.echo((outcome.folder / "sensitivity.json").read_text(encoding="utf-8"), nl=False)
        return
    click.echo(_tables(outcome.report))
    click.echo(f"plots: {outcome.folder / 'sensitivity.html'}\nfigures: {outcome.folder / 'sensitivity.json'}")


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
