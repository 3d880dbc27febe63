"""``mmdeploy releases``: what was published, and what is live."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli import completion
from mmdeploy.cli.options import destination_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import table

if TYPE_CHECKING:
    import datetime

    from mmdeploy.report.published import Published


@click.command()
@click.argument("name", required=False, shell_complete=completion.ensembles)
@destination_option
@output_options(quiet="the ids of the releases, one a line")
def command(name: str | None, destination: Path, output: Output) -> None:
    """List the releases of every published ensemble, or of NAME, the newest first, with what they were judged by.

    \b
    Example:
      mmdeploy releases
      mmdeploy releases spoken_digits --json
    """  # noqa: D301
    from mmdeploy.report.published import chosen_name, published, published_names

    names = [chosen_name(destination, name)] if name is not None else published_names(destination)
    found = [one for known in names for one in reversed(published(destination, known))]
    output.answer(
        text=lambda: _text(found) if found else f"nothing is published in {destination}",
        fields=lambda: {"releases": [one.to_json() for one in found]},
        quiet=[one.release.release_id for one in found],
    )


def _text(found: Sequence[Published]) -> str:
    from mmdeploy.report.units import bytes_text

    rows = [
        (
            one.name,
            one.release.release_id,
            _live(one),
            _when(one.published_at),
            bytes_text(one.bytes),
            "\n".join(one.gates or (one.unreadable or "no gates",)),
        )
        for one in found
    ]
    return table(("ensemble", "release", "live", "published", "size", "gates"), rows)


def _live(one: Published) -> str:
    """Say whether a release is live; since when, where that is not since it was published."""
    if one.live_since is None:
        return ""
    since = _when(one.live_since)
    return "live" if since == _when(one.published_at) else f"since {since}"


def _when(moment: datetime.datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
