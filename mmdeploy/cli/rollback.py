"""``mmdeploy rollback``: make an earlier release live again."""

from __future__ import annotations

from pathlib import Path

import click

from mmdeploy.cli import completion
from mmdeploy.cli.options import destination_option
from mmdeploy.cli.output import Output, output_options


@click.command()
@click.argument("name", required=False, shell_complete=completion.ensembles)
@click.argument("release", required=False)
@destination_option
@output_options(quiet="the id of the release that is live")
def command(name: str | None, release: str | None, destination: Path, output: Output) -> None:
    """Make an earlier release of NAME live again: RELEASE, or the one that was published before the live one.

    NAME may be left out where one ensemble is published. The release is compared with its manifest first; where that
    fails, what was live stays live. Nothing is removed, so the way back is the same command with the other id. A server
    that runs serves what it loaded until mmdeploy promote, unless it follows (mmdeploy serve --follow).

    \b
    Example:
      mmdeploy rollback spoken_digits
      mmdeploy rollback spoken_digits 20261126-101500-a1b2c3
    """  # noqa: D301
    from mmdeploy.report.published import chosen_name, previous
    from mmdeploy.triton.repository import activate, releases

    name = chosen_name(destination, name)
    before = next((one.release_id for one in releases(destination, name) if one.live), None)
    wanted = release or previous(destination, name).release_id
    live = activate(destination, name, wanted)
    text = [f"{live}: {wanted} is live already"]
    if before != wanted:
        text = [
            f"{live}: {wanted} is live" + (f", {before} no more" if before else ""),
            "a server that runs still serves what it loaded: mmdeploy promote URL",
            *([f"back: mmdeploy rollback {name} {before}"] if before else []),
        ]
    fields = {"name": name, "path": str(live), "release": wanted, "before": before, "changed": before != wanted}
    output.answer(text=lambda: "\n".join(text), fields=lambda: fields, quiet=[wanted])
