"""``mmdeploy releases``: what was published, and what is live."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import destination_option, json_option
from mmdeploy.cli.text import table

if TYPE_CHECKING:
    import datetime

    from mmdeploy.report.published import Published


@click.command()
@click.argument("name", required=False)
@destination_option
@json_option
def command(name: str | None, destination: Path, as_json: bool) -> None:
    """List the releases of every published ensemble, or of NAME, the newest first, with what they were judged by.

    \b
    Example:
      mmdeploy releases
      mmdeploy releases spoken_digits --json
    """  # noqa: D301
    from mmdeploy.report.published import chosen_name, published, published_names

    names = [chosen_name(destination, name)] if name is not None else published_names(destination)
    found = [one for known in names for one in reversed(published(destination, known))]
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
    elif found:
        click.echo(_text(found))
    else:
        click.echo(f"nothing is published in {destination}")


def _text(found: Sequence[Published]) -> str:
    from mmdeploy.report.units import bytes_text

    rows = [
        (
            one.name if index == 0 or found[index - 1].name != one.name else "",
            one.release.release_id,
            f"since {_when(one.live_since)}" if one.live_since else "",
            _when(one.published_at),
            bytes_text(one.bytes),
            "\n".join(one.gates or (one.unreadable or "no gates",)),
        )
        for index, one in enumerate(found)
    ]
    return table(("ensemble", "release", "live", "published", "size", "gates"), rows)


def _when(moment: datetime.datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
