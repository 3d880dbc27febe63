"""The connection to a Ray cluster: started here or found by its address, and always given back."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from mmdeploy.core.errors import EnvironmentUnfitError, UsageError
from mmdeploy.core.target import usable_cores

#: What stands for a cluster on this machine alone, for this build.
LOCAL = "ray"
_ADDRESS = re.compile(r"(ray://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})")
#: Seconds for the first word of a cluster.
_PATIENCE_S = 5.0
#: Times that a cluster on this machine is started: Ray gives its processes half a minute.
_ATTEMPTS = 3
#: Ray's own switches, as it reads them: no statistics are sent, it says nothing on our terminal, and it gives up soon.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "5",
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "10",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
#: A cluster of one machine listens on loopback only, on Linux too.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def check_address(where: str) -> str:
    """Return an address as ``--on`` takes it.

    Raises:
        UsageError: If it is none.
    """
    if where in (LOCAL, "auto") or _ADDRESS.fullmatch(where):
        return where
    raise UsageError(
        f"--on {where!r} names no cluster",
        hint="write ray for one on this machine, ray://HOST:10001 for one elsewhere, or HOST:6379 or auto on a node of "
        "it",
    )


def require_ray() -> None:
    """Do nothing where Ray is installed.

    Raises:
        EnvironmentUnfitError: If it is not.
    """
    if find_spec("ray") is None:
        raise EnvironmentUnfitError(
            "Ray is not installed in this environment", hint="pip install 'multimodal-deploy[ray]'"
        )


@contextlib.contextmanager
def connected(where: str | None) -> Iterator[None]:
    """Be connected to a cluster; one that this process is connected to already is used, and left as it is.

    Args:
        where: What `check_address` accepts; None for no cluster.

    Raises:
        UsageError: If it is no address.
        EnvironmentUnfitError: If Ray is not installed, or the cluster cannot be reached.
    """
    if where is None:
        yield
        return
    check_address(where)
    require_ray()
    _require_listener(where)
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    with _set(_LOOPBACK if where == LOCAL else {}):
        import ray

        if ray.is_initialized():
            yield
            return
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        _begin(ray, where)
        try:
            yield
        finally:
            ray.shutdown()


def _begin(ray: Any, where: str) -> None:
    asked: dict[str, Any] = {"address": where}
    if where == LOCAL:
        asked = {"address": "local", "num_cpus": usable_cores(), "include_dashboard": False}
    if not where.startswith("ray://"):
        asked |= {"log_to_driver": False, "configure_logging": False}
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(**asked, namespace="mmdeploy", logging_level=logging.CRITICAL)
        except (Exception, SystemExit) as error:
            ray.shutdown()
            if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # Ray's handler: we are asked to end
                raise
            if where != LOCAL or attempt == _ATTEMPTS:  # on a machine that is busy, half a minute may be too short
                raise _unreachable(where, error) from error
        else:
            return


def _unreachable(where: str, error: BaseException) -> EnvironmentUnfitError:
    why = (str(error) or type(error).__name__).strip().splitlines()[0]
    if where == LOCAL:
        return EnvironmentUnfitError(f"Ray did not start on this machine: {why}", hint="build without --on")
    return EnvironmentUnfitError(
        f"no Ray cluster at {where}: {why}",
        hint="ray status, on its head node, says whether it is up; client and cluster need the same versions of Ray "
        "and Python",
    )


def _require_listener(where: str) -> None:
    """Do nothing where something listens at an address: Ray itself would wait for minutes.

    Raises:
        EnvironmentUnfitError: If nothing does.
    """
    found = _ADDRESS.fullmatch(where)
    if found is None:
        return
    host, port = found[2].strip("[]"), int(found[3])
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise EnvironmentUnfitError(
            f"no Ray cluster at {where}: {getattr(error, 'strerror', None) or error}",
            hint="a cluster listens at port 6379 for its own nodes and, as ray://, at 10001 for all others; ray start "
            "--head begins one",
        ) from error


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
