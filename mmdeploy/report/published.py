"""What was published under a folder: each release, with what the report beside it says."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.cleaning import size_of
from mmdeploy.core.errors import MmdeployError, UsageError, did_you_mean
from mmdeploy.record.build_report import FILENAME, BuildReport
from mmdeploy.record.report_file import read_report
from mmdeploy.report.units import check_text
from mmdeploy.report.wording import worst_first
from mmdeploy.triton.repository import RELEASES, Release, not_there_hint, releases
from mmdeploy.triton.staging import MANIFEST


@dataclass(frozen=True)
class Published:
    """A release and what is known of it.

    Attributes:
        name: Name of the ensemble that it is published under.
        release: The release.
        published_at: When it was published.
        live_since: When it was made live, or None where another one is.
        bytes: Size of its files.
        report: What it was judged by, or None where no report can be read: ``unreadable`` says why.
        unreadable: Empty where the report can be read.
    """

    name: str
    release: Release
    published_at: datetime.datetime
    live_since: datetime.datetime | None
    bytes: int
    report: BuildReport | None
    unreadable: str = ""

    @property
    def gates(self) -> tuple[str, ...]:
        """Each gate with the figure that it hangs on and its limit: of those that did worst the first."""
        judged = worst_first(self.report) if self.report is not None else []
        firsts = [(gate, next((check for check in gate.checks if check.measured is not None), None)) for gate in judged]
        return tuple(
            f"{gate.gate}: {check.name} {check_text(check)[0]} ({check.limit})"
            if check
            else f"{gate.gate}: not measured"
            for gate, check in firsts
        )

    def to_json(self) -> dict[str, Any]:
        """Return its facts as JSON values."""
        report = self.report
        return {
            "name": self.name,
            "release": self.release.release_id,
            "path": str(self.release.path),
            "live": self.release.live,
            "live_since": None if self.live_since is None else self.live_since.isoformat(),
            "published_at": self.published_at.isoformat(),
            "bytes": self.bytes,
            "verdict": None if report is None else report.verdict.value,
            "recipe_sha256": None if report is None else report.recipe.sha256,
            "revision": None if report is None else report.recipe.revision,
            "gates": [] if report is None else [gate.model_dump(mode="json") for gate in report.gates],
            "unreadable": self.unreadable or None,
        }


def published_names(root: Path) -> tuple[str, ...]:
    """Return the names that releases are published under in a folder."""
    folder = root / RELEASES
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return tuple(name for name in names if releases(root, name))


def chosen_name(root: Path, name: str | None) -> str:
    """Return a published name: the one that is asked for, or the only one there is.

    Raises:
        UsageError: If there is none, not that one, or none is asked for and there are several.
    """
    names = published_names(root)
    if not names:
        raise UsageError(f"nothing is published in {root}", hint=not_there_hint(root))
    if name is None and len(names) > 1:
        raise UsageError(f"{len(names)} ensembles are published in {root}: say which of {', '.join(names)}")
    if name is not None and name not in names:
        raise UsageError(f"nothing is published in {root} as {name!r}: {did_you_mean(name, names)}")
    return name or names[0]


def published(root: Path, name: str) -> tuple[Published, ...]:
    """List the releases of a published name, oldest first."""
    return tuple(_known(root, name, release) for release in releases(root, name))


def previous(root: Path, name: str) -> Release:
    """Return the release that was published before the live one.

    Raises:
        UsageError: If there is none, or no release is live.
    """
    found = releases(root, name)
    hint = f"mmdeploy releases {name} lists all: name one"
    live = next((index for index, release in enumerate(found) if release.live), None)
    if live is None:
        raise UsageError(f"no release of {name} is live in {root}, so none is before it", hint=hint)
    if live == 0:
        raise UsageError(f"{found[0].release_id} is the oldest release of {name}: there is none before it", hint=hint)
    return found[live - 1]


def live_release(root: Path, name: str) -> Release:
    """Return the release that is live.

    Raises:
        UsageError: If none is.
    """
    for release in releases(root, name):
        if release.live:
            return release
    raise UsageError(f"no release of {name} is live in {root}", hint=f"mmdeploy rollback {name} RELEASE makes one live")


def chosen_release(root: Path, name: str, release_id: str) -> Release:
    """Return a release by its id.

    Raises:
        UsageError: If there is none of that id.
    """
    found = {release.release_id: release for release in releases(root, name)}
    if release_id not in found:
        raise UsageError(f"{name} has no release {release_id!r}: {did_you_mean(release_id, found)}")
    return found[release_id]


def _known(root: Path, name: str, release: Release) -> Published:
    report, unreadable = None, ""
    try:
        report = read_report(release.path / FILENAME)
    except MmdeployError as error:
        unreadable = error.message
    return Published(
        name=name,
        release=release,
        published_at=_moment((release.path / MANIFEST).stat().st_mtime),
        live_since=_moment((root / name).lstat().st_mtime) if release.live else None,
        bytes=size_of(release.path),
        report=report,
        unreadable=unreadable,
    )


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
