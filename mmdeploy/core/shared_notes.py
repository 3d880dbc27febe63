"""Notes of this machine of what a shared place has, so that nothing is asked of it, or sent, that is known to be there.

A note is an empty file whose time counts. A place is cleaned by the age of its files: what a note says is not believed
for long, and when it is asked again the file there is renewed.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

_BELIEVED_S = 7 * 86400


class SharedNotes:
    """What is known of one shared place."""

    def __init__(self, folder: Path, place: str) -> None:
        """Take the folder of all notes, and the URL of the place."""
        self._folder = folder / hashlib.sha256(place.encode()).hexdigest()[:16]

    def is_old(self, name: str) -> bool:
        """Say whether it is not known, or has not been for long, that the place has something."""
        try:
            return (self._folder / name).stat().st_mtime < time.time() - _BELIEVED_S
        except OSError:
            return True

    def renew(self, name: str) -> None:
        """Note that the place has something now."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / name).touch()
