"""``mmdeploy diff``: two releases of an ensemble side by side."""

from __future__ import annotations

from pathlib import Path

import click

from mmdeploy.cli import completion
from mmdeploy.cli.options import destination_option
from mmdeploy.cli.output import Output, output_options


@click.command()
@click.argument("name", required=False, shell_complete=completion.ensembles)
@click.argument("before", required=False)
@click.argument("after", required=False)
@destination_option
@output_options(quiet="what differs, its name a line")
def command(name: str | None, before: str | None, after: str | None, destination: Path, output: Output) -> None:
    """Say what differs between two releases of NAME, as mmdeploy compare does.

    BEFORE and AFTER are ids of releases: by default AFTER is the live one, and BEFORE what was published before it.
    NAME may be left out where one ensemble is published.

    \b
    Example:
      mmdeploy diff spoken_digits
      mmdeploy diff spoken_digits 20261126-101500-a1b2c3
    """  # noqa: D301
    from mmdeploy.cli.compare import show
    from mmdeploy.report.published import chosen_name, chosen_release, live_release, previous

    name = chosen_name(destination, name)
    sides = (
        previous(destination, name) if before is None else chosen_release(destination, name, before),
        live_release(destination, name) if after is None else chosen_release(destination, name, after),
    )
    if sides[0] == sides[1]:
        raise click.UsageError(f"{sides[0].release_id} is the live release: name another, or both")
    output.tell(f"{name}: {sides[0].release_id} and {sides[1].release_id}\n")
    show(sides[0].path, sides[1].path, output)
