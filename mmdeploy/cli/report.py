"""``mmdeploy report``: show the report of a build, or render it anew."""

from __future__ import annotations

from pathlib import Path

import click

from mmdeploy.cli.options import workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.core.errors import UsageError


@click.command()
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["terminal", "json", "md", "junit", "html"]),
    help="What to print; the table that the build ended with by default.",
)
@workdir_option
@output_options(quiet="the verdict")
def command(report: Path | None, form: str | None, workdir: Path, output: Output) -> int:
    """Show the report of a build: REPORT is a report.json or a run's folder, by default the latest run.

    The exit code is the build's, so that a later stage of a pipeline can ask again.

    \b
    Example:
      mmdeploy report
      mmdeploy report .mmdeploy/runs/spoken_digits/latest --format md > comment.md
    """  # noqa: D301
    from rich.console import Console

    from mmdeploy.record.report_file import read_report
    from mmdeploy.report import html, junit, markdown
    from mmdeploy.report.terminal import Summary

    found = read_report(report or latest(workdir))
    renderers = {"md": markdown.render, "junit": junit.render, "html": html.render}
    if output.as_json and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form} are two forms of the same: give one")
    if output.as_json or form == "json":
        output.document(found.to_json())
    elif form in renderers:
        click.echo(renderers[form](found), nl=False)
    elif output.quiet:
        click.echo(found.verdict.value)
    else:
        Console().print(Summary(found))
    return found.exit_code


def latest(workdir: Path) -> Path:
    """Return the report of the latest run.

    Raises:
        UsageError: If there is none.
    """
    runs = sorted(workdir.glob("runs/*/*/report.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise UsageError(f"there is no report under {workdir}/runs", hint="build a recipe first, or name a report.json")
    return runs[-1]
