"""What may go from the place that machines share: entries that no build asked for in a long time, and their contents.

A build that may write renews the seals of what it uses, at most weekly; so a seal's age says for how long no such build
wanted the entry. Entries go first, then contents that no entry names. What was sent within the last day stays: its
entry may be on its way. A build that finds an entry half removed refuses it and makes it again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from mmdeploy.core.shared_place import Found, SharedPlace
from mmdeploy.core.shared_store import DamagedEntryError, Seal

#: What is younger than this may belong to an entry whose seal is not written yet.
_ON_ITS_WAY_S = 86400


@dataclass(frozen=True)
class SharedSpare:
    """What may go.

    Attributes:
        entries: Seals, by name at the place.
        contents: Contents and readings, by name.
        bytes: Size of it all.
        kept: Entries that stay.
    """

    entries: tuple[str, ...]
    contents: tuple[str, ...]
    bytes: int
    kept: int


def spare_shared(place: SharedPlace, *, idle_days: float, most_bytes: int | None = None) -> SharedSpare:
    """Find what may go from a place that machines share.

    Args:
        place: The place.
        idle_days: Entries that no build renewed for so long go.
        most_bytes: What all contents may come to: entries renewed longest ago go first. None for no limit.

    Raises:
        EnvironmentUnfitError: If a package or the credentials are missing.
        StoreError: If the place cannot be read.
    """
    place.require_readable()
    now = time.time()
    seals, blobs = place.files("entries"), place.files("blobs")
    named = _named(place, seals)
    oldest_first = sorted(named, key=lambda name: seals[name].changed_at)
    days = {name: idle_days if name in named else 0.0 for name in seals}
    gone = {name for name, one in seals.items() if now - one.changed_at > max(days[name] * 86400, _ON_ITS_WAY_S)}
    if most_bytes is not None:
        gone |= set(_over(most_bytes, [name for name in oldest_first if name not in gone], named, blobs))
    used = {blob for name, some in named.items() if name not in gone for blob in some}
    spare = {name: one for name, one in blobs.items() if name not in used and now - one.changed_at > _ON_ITS_WAY_S}
    readings = {
        name: one for name, one in place.files("reads").items() if now - one.changed_at > max(idle_days, 30) * 86400
    }
    size = sum(seals[name].bytes for name in gone) + sum(one.bytes for one in (*spare.values(), *readings.values()))
    return SharedSpare(tuple(sorted(gone)), tuple(sorted({**spare, **readings})), size, len(seals) - len(gone))


def clean_shared(place: SharedPlace, *, idle_days: float, most_bytes: int | None = None) -> SharedSpare:
    """Find what may go from a place that machines share, and remove it; return what was removed.

    Raises:
        EnvironmentUnfitError: If a package or the credentials are missing.
        StoreError: If something cannot be removed.
    """
    found = spare_shared(place, idle_days=idle_days, most_bytes=most_bytes)
    place.remove(found.entries)
    place.remove(found.contents)
    return found


def _named(place: SharedPlace, seals: dict[str, Found]) -> dict[str, tuple[str, ...]]:
    """Return the contents that each entry names; without entries whose seal cannot be read."""
    named = {}
    for name, content in place.read_all(seals).items():
        try:
            files = Seal.from_json(content, PurePosixPath(name).stem).files
        except DamagedEntryError:
            continue
        named[name] = tuple(f"blobs/{digest[:2]}/{digest}" for digest, _ in files.values())
    return named


def _over(
    most_bytes: int, kept: list[str], named: dict[str, tuple[str, ...]], blobs: dict[str, Found]
) -> Iterator[str]:
    """Give entries, those first that come first, until what the others name comes to no more than a size."""
    users: dict[str, int] = {}
    for name in kept:
        for blob in set(named[name]):
            users[blob] = users.get(blob, 0) + 1
    left = sum(blobs[blob].bytes for blob in users if blob in blobs)
    for name in kept:
        if left <= most_bytes:
            return
        yield name
        for blob in set(named[name]):
            users[blob] -= 1
            if users[blob] == 0 and blob in blobs:
                left -= blobs[blob].bytes
