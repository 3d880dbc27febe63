"""``mmdeploy matrix``: build one recipe for several classes of hardware, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import (
    destination_option,
    on_option,
    recipe_argument,
    set_option,
    store_option,
    workdir_option,
)
from mmdeploy.cli.output import Output, output_options

if TYPE_CHECKING:
    from mmdeploy.core.shared_store import SharedStore
    from mmdeploy.studies.matrix import Matrix


@click.command()
@recipe_argument
@click.option(
    "--targets",
    metavar="CLASSES",
    required=True,
    help="Classes, with commas: cpu-avx2, cpu-avx-vnni, cpu-avx512, cpu-avx512-vnni, cpu-amx, cpu-neon, cpu-i8mm; "
    "GPUs by compute capability: sm80, sm89, or sm89:tensorrt for another target than the usual one.",
)
@set_option
@click.option("--jobs", type=click.IntRange(1), help="Steps of a build at once.")
@click.option(
    "--publish-unverified",
    is_flag=True,
    help="Publish what was built here for other classes, too, and could not be judged on a machine of them.",
)
@destination_option
@workdir_option
@store_option
@on_option
@output_options(quiet="the path of each release that is published, one a line")
def command(
    *,
    recipe: Path,
    targets: str,
    overrides: tuple[str, ...],
    jobs: int | None,
    publish_unverified: bool,
    destination: Path,
    workdir: Path,
    shared: SharedStore | None,
    on: str | None,
    output: Output,
) -> int:
    """Build one recipe for several classes of hardware, a repository each, and compare them.

    A class that this machine is of is built, judged and published to OUTPUT/CLASS/NAME. What can be built ahead of time
    for another class is built, and is inconclusive; the rest is named. With --on each class goes to a node of the
    cluster that is of it. The same command on a machine of such a class, with the same --workdir and --output, fills
    its row in, too, and keeps the others. Exit code 5 while a row is open.

    \b
    Example:
      mmdeploy matrix recipe.yaml --targets cpu-avx512,cpu-amx,sm80,sm89
      mmdeploy matrix recipe.yaml --targets cpu-avx512,sm89:tensorrt \\
        --output /srv/models
      mmdeploy matrix recipe.yaml --targets cpu-amx,sm80,sm89 \\
        --on ray://head:10001 --store s3://team-bucket/mmdeploy
    """  # noqa: D301
    from mmdeploy.building.settings import Settings
    from mmdeploy.studies.classes import read_classes
    from mmdeploy.studies.matrix import run_matrix
    from mmdeploy.studies.matrix_page import write_matrix

    settings = Settings(
        workdir=workdir, destination=destination, jobs=jobs, publish_unverified=publish_unverified, shared=shared, on=on
    )
    classes = read_classes(targets)
    matrix = run_matrix(recipe, overrides, classes, settings, lambda row: output.progress(f"{row.name}: {row.status}"))
    files = write_matrix(matrix)
    output.answer(
        text=lambda: _told(matrix, files["html"]),
        fields=matrix.to_json,
        quiet=[str(row.published) for row in matrix.rows if row.published],
    )
    return matrix.exit_code


def _told(matrix: Matrix, page: Path) -> str:
    from mmdeploy.cli.text import table, wrapped
    from mmdeploy.studies.matrix_page import HEAD, cells

    rows = [[cell.rstrip(")").replace(" (", "\n").replace(", ", "\n") for cell in cells(row)] for row in matrix.rows]
    parts = [
        wrapped(f"this machine: {matrix.machine}; of {', '.join(matrix.here) or 'no class that has a name'}"), "",
        table(HEAD, rows), "",
    ]  # fmt: skip
    parts += [wrapped(f"{row.name}: {row.reason}") for row in matrix.rows if row.reason]
    parts += [f"{row.name}: published {row.published}" for row in matrix.rows if row.published]
    return "\n".join([*parts, f"report: {page}"])
