"""What tells a file from what it was, without reading it: size, inode and both times.

The change time cannot be set, so a file that was edited and given its old modification time shows as another. A second
edit within the same tick of the file system's clock does not show in the times (git calls this "racily clean"): what is
found in a file that changed just before must not be kept.
"""

from __future__ import annotations

import os
from pathlib import Path

State = tuple[int, int, int, int]

TICK_NS = 50_000_000
SECOND_NS = 1_000_000_000


def file_state(path: Path | str) -> State:
    """Return what tells a file from what it was: size, inode, modification and change time."""
    return state_of(os.stat(path))  # noqa: PTH116 - a string is enough


def state_of(status: os.stat_result) -> State:
    """Return the same of what the system says of a file."""
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def is_settled(state: State, now: int) -> bool:
    """Say whether a later edit is bound to show in a file's times; some file systems count in seconds."""
    *_, modified, changed = state
    coarse = modified % SECOND_NS == 0 and changed % SECOND_NS == 0
    return max(modified, changed) + (2 * SECOND_NS if coarse else TICK_NS) < now
