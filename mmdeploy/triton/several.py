"""Several servers at once, side by side on this machine: what is compared meets the same machine."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from mmdeploy.core.errors import MmdeployError
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.server import Server

#: Without a cache: even in the smallest that Triton takes, 256 bytes, small answers are kept.
_NO_CACHE_BYTES = 0


def start_all(
    stack: ExitStack, repositories: Mapping[str, Path], logs: Path, stand_ins: Mapping[str, Path] = MappingProxyType({})
) -> dict[str, Server]:
    """Start a server without a response cache on each repository, and wait until all answer.

    Args:
        stack: Stops them.
        repositories: By what each is here, such as ``candidate``.
        logs: Folder of their logs, ``triton-<role>.log``.
        stand_ins: Folders of Python-based backends, as `mmdeploy.triton.server.start` takes them.

    Raises:
        ServerError: If Triton refuses a repository or dies: then none is left running.
        EnvironmentUnfitError: If there is no Triton.
    """
    pool = stack.enter_context(ThreadPoolExecutor(len(repositories)))
    starting = {
        role: pool.submit(
            triton_server.start,
            [path],
            log=logs / f"triton-{role}.log",
            response_cache_bytes=_NO_CACHE_BYTES,
            stand_ins=stand_ins,
        )
        for role, path in repositories.items()
    }
    servers, errors = {}, []
    for role, future in starting.items():  # one that came up is stopped even when its neighbour did not
        try:
            servers[role] = stack.enter_context(future.result())
        except MmdeployError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return servers
