"""``mmdeploy report``: show the report of a build, or render it anew."""

from __future__ import annotations

from pathlib import Path

import click

from mmdeploy.cli.options import workdir_option
from mmdeploy.core.errors import UsageError


@click.command()
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["terminal", "json", "md", "junit", "html"]),
    default="terminal",
    help="What to print; the default is the table that the build ended with.",
)
@workdir_option
def command(report: Path | None, form: str, workdir: Path) -> int:
    """Show the report of a build: REPORT is a report.json or a run's folder, by default the latest run.

    The exit code is the build's, so that a later stage of a pipeline can ask again.

    \b
    Example:
      mmdeploy report
      mmdeploy report .mmdeploy/runs/spoken_digits/latest --format md > comment.md
    """  # noqa: D301
    from rich.console import Console

    from mmdeploy.record.build_report import BuildReport
    from mmdeploy.record.report_file import read_report
    from mmdeploy.report import html, junit, markdown
    from mmdeploy.report.terminal import Summary

    found = read_report(report or latest(workdir))
    renderers = {"json": BuildReport.to_json, "md": markdown.render, "junit": junit.render, "html": html.render}
    if form == "terminal":
        Console().print(Summary(found))
    else:
        click.echo(renderers[form](found), nl=False)
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
