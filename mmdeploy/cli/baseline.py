"""``mmdeploy baseline``: accept a build as what later ones are judged by."""

from __future__ import annotations

from pathlib import Path

import click

from mmdeploy.cli.options import workdir_option
from mmdeploy.cli.output import Output, output_options


@click.group(invoke_without_command=True)
@output_options(quiet="nothing")
@click.pass_context
def command(context: click.Context, output: Output) -> None:
    """Keep what later builds are judged by: see mmdeploy gate.

    \b
    Example:
      mmdeploy baseline accept --to baseline.json
      mmdeploy baseline accept model_repository/spoken_digits --to baseline.json
    """  # noqa: D301
    if context.invoked_subcommand is None:
        raise click.UsageError("say what to do: accept", context)


@command.command()
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("baseline.json"),
    show_default=True,
    help="Where it is written; what is there is replaced.",
)
@workdir_option
@output_options(quiet="nothing")
def accept(report: Path | None, file: Path, workdir: Path, output: Output) -> None:
    """Accept a build that passed: REPORT is a report.json, a run's folder or a release, by default the latest run.

    The file is a report with what a later build is judged by and nothing else: the gates' figures and the score of each
    sample, compressed. Commit it beside the recipe.

    \b
    Example:
      mmdeploy baseline accept --to baseline.json
    """  # noqa: D301
    from mmdeploy.baseline.accepted import trimmed
    from mmdeploy.cli.report import latest
    from mmdeploy.record.report_file import read_report
    from mmdeploy.report.units import bytes_text
    from mmdeploy.triton.repository import require_intact
    from mmdeploy.triton.staging import translated

    place = report or latest(workdir)
    if place.is_dir():
        require_intact([place])
    text = trimmed(read_report(place)).to_json()
    staged = file.with_name(f".{file.name}.new")
    with translated(f"cannot write {file}"):
        try:
            staged.write_text(text, encoding="utf-8")
            staged.replace(file)
        finally:
            staged.unlink(missing_ok=True)
    output.answer(
        text=lambda: f"{file}: {bytes_text(len(text))}\njudge by it: mmdeploy gate --baseline {file} --max-drop 0.01",
        fields=lambda: {"file": str(file), "bytes": len(text.encode()), "report": str(place)},
    )
