"""``mmdeploy build``: run a recipe's steps, judge what is served, publish it if it passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import (
    benchmark_option,
    destination_option,
    jobs_option,
    no_cache_option,
    on_option,
    only_option,
    recipe_argument,
    set_option,
    store_option,
    workdir_option,
)
from mmdeploy.cli.output import Output, output_options
from mmdeploy.core.errors import StoreError

if TYPE_CHECKING:
    from mmdeploy.building.builder import Outcome
    from mmdeploy.core.shared_store import SharedStore


@click.command()
@recipe_argument
@set_option
@workdir_option
@store_option
@on_option
@destination_option
@only_option
@no_cache_option
@jobs_option
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that a step that trains runs on, under Accelerate's launcher; each batch is shared out among them.",
)
@click.option(
    "--publish-unverified",
    is_flag=True,
    help="Publish even though engines cannot run on this machine and were judged by a substitute. "
    "Failed gates are never published.",
)
@click.option(
    "--sign-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Sign the release with this private key (elliptic, PEM) before it is live; see mmdeploy sign.",
)
@benchmark_option
@output_options(quiet="what went wrong; the exit code tells the rest")
def command(
    *,
    recipe: Path,
    overrides: tuple[str, ...],
    workdir: Path,
    shared: SharedStore | None,
    on: str | None,
    destination: Path,
    only: str | None,
    no_cache: bool,
    jobs: int | None,
    processes: int,
    publish_unverified: bool,
    sign_key: Path | None,
    benchmark_json: Path | None,
    output: Output,
) -> int:
    """Build a recipe, judge what is served, publish it if it passes.

    Building runs the Python code that the recipe names. Steps whose inputs did not change are taken from the store.
    Every verdict leaves a report: report.html, report.md, report.json and junit.xml. With --json standard output is
    report.json, whatever the verdict, and what is being done is told on standard error.

    \b
    Example:
      mmdeploy build recipes/spoken_digits/recipe.yaml
      mmdeploy build recipe.yaml --set components.fusion.quantize=null \\
        --output /srv/models
      mmdeploy build recipe.yaml --only fusion/quantize --no-cache
      mmdeploy build recipe.yaml --store s3://team-bucket/mmdeploy
      mmdeploy build recipe.yaml --on ray://head:10001 \\
        --store s3://team-bucket/mmdeploy
    """  # noqa: D301
    from mmdeploy.building.builder import run_build
    from mmdeploy.building.settings import Settings
    from mmdeploy.planning.steps import only_step
    from mmdeploy.recipe.loader import load_recipe
    from mmdeploy.report import github

    loaded = load_recipe(recipe, overrides)
    settings = Settings(
        workdir=workdir,
        destination=destination,
        jobs=jobs,
        processes=processes,
        publish_unverified=publish_unverified,
        fresh=no_cache,
        sign_key=sign_key,
        shared=shared,
        on=on,
    )
    with (
        github.group(f"build of {loaded.name}", output.step),
        output.display(on_stderr=False) as display,
    ):
        outcome = run_build(loaded, settings, display, upto=only_step(only))
    return _told(outcome, output, benchmark_json)


def _told(outcome: Outcome, output: Output, benchmark_json: Path | None) -> int:
    """Write a build's reports and print what came of it; return the exit code."""
    from rich.console import Console

    from mmdeploy.report import benchmark, github, unreported, write_all, write_file
    from mmdeploy.report.terminal import Summary

    files: dict[str, Path] = {}
    unwritten: StoreError | None = None
    try:
        files = write_all(outcome.report, outcome.folder)
        for file, text in benchmark.files(outcome.report, benchmark_json).items() if benchmark_json else ():
            write_file(file, text)
    except StoreError as error:
        unwritten = error
    for annotation in github.of_build(outcome.report):
        click.echo(annotation, err=True)
    github.summarize(outcome.report)
    if output.as_json:
        output.document(outcome.report.to_json())
    elif not output.quiet:
        Console().print(Summary(outcome.report, files, with_failure=False))  # it is told on standard error, once
    if outcome.error is not None:  # the news, and often why the report cannot be written either
        raise outcome.error
    if unwritten is not None:
        raise unreported(unwritten, outcome.report)
    return outcome.report.exit_code
