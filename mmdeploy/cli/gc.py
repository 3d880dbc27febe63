"""``mmdeploy gc``: remove what no build and no server needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.options import destination_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import counted, table

_NOUNS = {"entry": "step result", "scratch": "stopped step", "run": "run"}

if TYPE_CHECKING:
    from mmdeploy.core.cleaning import Spare
    from mmdeploy.report.published import Published


@click.command()
@click.option(
    "--releases", "kept", type=click.IntRange(0), default=5, show_default=True,
    help="Releases of each ensemble that are kept beside the live one, the newest.",
)  # fmt: skip
@click.option(
    "--release-days", type=click.FloatRange(0), help="Of these, remove those that are older, too. Never by default."
)
@click.option(
    "--days", type=click.FloatRange(0), default=30.0, show_default=True,
    help="Results and runs that were of no use for so many days go.",
)  # fmt: skip
@click.option(
    "--max-gib", type=click.FloatRange(0),
    help="What the store may come to: what was of use longest ago goes first. No limit by default.",
)  # fmt: skip
@click.option(
    "--store", "url", metavar="URL",
    help="Clean this shared place instead, by --days and --max-gib; nothing of this machine is touched then. Never "
    "taken from the environment.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@destination_option
@workdir_option
@output_options(quiet="the names of what is removed, one a line")
def command(
    *,
    kept: int,
    release_days: float | None,
    days: float,
    max_gib: float | None,
    url: str | None,
    dry_run: bool,
    destination: Path,
    workdir: Path,
    output: Output,
) -> None:
    """Remove old releases from --output, and results that no build needs from --workdir.

    Never removed are releases that are live or that a running `mmdeploy serve` holds, what the last build of each
    recipe was made of, and its last run. While a build is running nothing is. With --store results go from the place
    that machines share that no build which may write there has used for --days: one machine, or a timer, should do so.

    \b
    Example:
      mmdeploy gc --dry-run
      mmdeploy gc --releases 2 --days 7 --max-gib 20
      mmdeploy gc --store s3://team-bucket/mmdeploy --days 60
    """  # noqa: D301
    from mmdeploy.core.cleaning import clean, spare
    from mmdeploy.triton.repository import remove

    most = None if max_gib is None else int(max_gib * 2**30)
    if url is not None:
        _clean_shared(url, days, most, output, dry_run=dry_run)
        return
    old = _old(destination, kept, release_days)
    held: list[Published] = []
    if dry_run:
        found = spare(workdir, idle_days=days, most_bytes=most)
    else:
        found = clean(workdir, idle_days=days, most_bytes=most)
        held = [one for one in old if not remove(destination, one.name, one.release.release_id)]
    gone = [one for one in old if one not in held]
    output.answer(
        text=lambda: _text(gone, held, found, dry_run=dry_run),
        fields=lambda: _fields(gone, held, found, dry_run=dry_run),
        quiet=[*(f"{one.name}/{one.release.release_id}" for one in gone), *(one.name for one in found)],
    )


def _clean_shared(url: str, days: float, most: int | None, output: Output, *, dry_run: bool) -> None:
    """Clean a place that machines share, and say what was removed."""
    from mmdeploy.core.shared_cleaning import clean_shared, spare_shared
    from mmdeploy.core.shared_place import SharedPlace
    from mmdeploy.report.units import bytes_text

    found = (spare_shared if dry_run else clean_shared)(SharedPlace(url), idle_days=days, most_bytes=most)
    gone = f"{counted(len(found.entries), 'step result')} and {counted(len(found.contents), 'file')} of none"
    done = "would be removed" if dry_run else "removed"
    kept = f"{counted(found.kept, 'step result')} kept"
    entries = [Path(name).stem for name in found.entries]
    output.answer(
        text=lambda: f"{gone}, {bytes_text(found.bytes)}, {done} from {url}; {kept}",
        fields=lambda: {
            "dry_run": dry_run,
            "entries": entries,
            "contents": len(found.contents),
            "kept": found.kept,
            "bytes": found.bytes,
        },
        quiet=entries,
    )


def _old(destination: Path, kept: int, release_days: float | None) -> list[Published]:
    """Return the releases that may go: not live, and too many or too old."""
    import datetime

    from mmdeploy.report.published import published, published_names

    now, found = datetime.datetime.now(tz=datetime.UTC), list["Published"]()
    for name in published_names(destination):
        others = [one for one in reversed(published(destination, name)) if not one.release.live]
        found += [
            one
            for index, one in enumerate(others)
            if index >= kept
            or (release_days is not None and (now - one.published_at).total_seconds() > release_days * 86400)
        ]
    return found


def _fields(
    gone: Sequence[Published], held: Sequence[Published], found: Sequence[Spare], *, dry_run: bool
) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "releases": [{"name": one.name, "release": one.release.release_id, "bytes": one.bytes} for one in gone],
        "held": [{"name": one.name, "release": one.release.release_id} for one in held],
        "work": [{"kind": one.kind, "name": one.name, "bytes": one.bytes, "why": one.why} for one in found],
        "bytes": sum(one.bytes for one in gone) + sum(one.bytes for one in found),
    }


def _text(gone: Sequence[Published], held: Sequence[Published], found: Sequence[Spare], *, dry_run: bool) -> str:
    from mmdeploy.report.units import bytes_text

    rows = [("release", f"{one.name} {one.release.release_id}", bytes_text(one.bytes), "not live") for one in gone]
    for (kind, why), some in _grouped(found).items():
        names = some[0].name if kind == "run" and len(some) == 1 else counted(len(some), _NOUNS[kind])
        rows.append((kind, names, bytes_text(sum(one.bytes for one in some)), why))
    total = bytes_text(sum(one.bytes for one in gone) + sum(one.bytes for one in found))
    lines = [table(("what", "name", "size", "why"), rows), ""] if rows else []
    lines += [f"kept: {one.name} {one.release.release_id}: a server that runs has loaded it" for one in held]
    lines.append(f"{total} {'would be removed' if dry_run else 'removed'}" if rows else "nothing to remove")
    return "\n".join(lines)


def _grouped(found: Sequence[Spare]) -> dict[tuple[str, str], list[Spare]]:
    groups: dict[tuple[str, str], list[Spare]] = {}
    for one in found:
        groups.setdefault((one.kind, one.why), []).append(one)
    return groups
