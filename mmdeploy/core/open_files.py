"""Sees to it that this process and those that it starts may open enough files."""

from __future__ import annotations

import resource

from mmdeploy.core.errors import EnvironmentUnfitError

#: A build of three components with two servers beside each other has been seen with 120.
NEEDED = 256
_WANTED = 4096


def require_open_files() -> None:
    """Raise the soft limit on open files as far as is wanted and allowed.

    Raises:
        EnvironmentUnfitError: If it stays too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= _WANTED:
        return
    allowed = _WANTED if hard == unlimited else min(hard, _WANTED)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft < NEEDED:
        raise EnvironmentUnfitError(
            f"a process may open {soft} files here (ulimit -n), and builds and servers need {NEEDED}",
            hint=f"ulimit -n {_WANTED}, or raise the limit of the service or container",
        )
