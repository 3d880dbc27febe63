"""What a promotion asks of a server that runs: whether it lets itself be controlled, and what it serves."""

from __future__ import annotations

import contextlib
import itertools
import time
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from mmdeploy.core.errors import EnvironmentUnfitError, InferenceError, ServerError, UsageError
from mmdeploy.rollout.generation import asked_models
from mmdeploy.triton.control_key import ENVIRONMENT, HEADER
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.probe import loaded_models
from mmdeploy.triton.server import Server
from mmdeploy.triton.swap_folder import LOCAL

#: Unloading what is not there does nothing, and shows whether anything could be unloaded.
_NO_MODEL = "mmdeploy.no-such-model"
_QUIET_S, _POLL_S, _MOST_S = 0.5, 0.1, 60.0


def require_control(server: Server) -> bool:
    """Do nothing where models can be loaded and unloaded; return whether strangers cannot do that.

    Raises:
        UsageError: If the key is not the server's.
        EnvironmentUnfitError: If the server has no explicit model control.
    """
    url = f"{server.http_url}/v2/repository/models/{_NO_MODEL}/unload"
    try:
        ask_json(url, body={}, headers=server.control_headers, timeout_s=10)
    except InferenceError as error:
        refused = "restricted" in error.message or "HTTP 403" in error.message
        if refused and not _was_started_without(server):
            what = "is not the server's" if server.control_headers else "is missing"
            raise UsageError(
                f"{server.http_url} does not let itself be controlled: the control key {what}; nothing was changed",
                hint=f"name the server's key with --control-key-file, or in {ENVIRONMENT}; it is sent as {HEADER}",
            ) from error
        raise EnvironmentUnfitError(
            f"{server.http_url} serves without explicit model control; nothing was changed",
            hint="start it by mmdeploy serve, or tritonserver with --model-control-mode=explicit --load-model=*",
        ) from error
    try:
        ask_json(url, body={}, timeout_s=10)
    except InferenceError:
        return True
    return False


def _was_started_without(server: Server) -> bool:
    """Say whether the command line of a server on this machine has no explicit model control.

    A server that wants a key does not tell it to who has none; False where it cannot be seen.
    """
    import psutil

    parts = urllib.parse.urlsplit(server.http_url)
    if parts.hostname not in LOCAL:
        return False
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == parts.port and one.pid:
                return is_without_control(psutil.Process(one.pid).cmdline())
    return False


def is_without_control(command: Sequence[str]) -> bool:
    """Say whether a command line is that of a tritonserver without explicit model control."""
    if not command or PurePath(command[0]).name != "tritonserver":
        return False
    words = [word for one in command[1:] for word in one.split("=", 1)]
    modes = [mode for option, mode in itertools.pairwise(words) if option == "--model-control-mode"]
    return modes[-1:] != ["explicit"]


def config_of(server: Server, model: str) -> dict[str, Any] | None:
    """Return the configuration by which a model is served; None where it is not loaded."""
    try:
        found: dict[str, Any] = ask_json(f"{server.http_url}/v2/models/{model}/config", timeout_s=30)
    except InferenceError:
        return None
    return found


def served_for(server: Server, models: Iterable[str]) -> frozenset[str]:
    """Return the models that some models ask for, and those that these ask for, without themselves."""
    found: set[str] = set()
    waiting = list(models)
    while waiting:
        config = config_of(server, waiting.pop())
        new = [] if config is None else [name for name in asked_models(config) if name not in found]
        found.update(new)
        waiting += new
    return frozenset(found)


def needed_by_others(server: Server, ensemble: str, own: frozenset[str]) -> frozenset[str]:
    """Return the models that a server needs whatever becomes of an ensemble and of its own models."""
    others = [name for name in loaded_models(server.http_url) if name != ensemble and name not in own]
    return served_for(server, others) | frozenset(others)


def await_quiet(server: Server, models: frozenset[str], least_s: float) -> None:
    """Wait until requests that started before have gone through some models: so long, and until these are quiet."""
    started = since = time.monotonic()
    before = _answered(server, models)
    while time.monotonic() - started < _MOST_S:
        time.sleep(_POLL_S)
        now, clock = _answered(server, models), time.monotonic()
        if now != before:
            before, since = now, clock
        if clock - started >= least_s and clock - since >= min(_QUIET_S, least_s):
            return


def _answered(server: Server, models: frozenset[str]) -> dict[str, int]:
    """Return how many requests models have answered or failed."""
    with contextlib.suppress(InferenceError, ServerError):
        found: dict[str, int] = {}
        for entry in ask_json(f"{server.http_url}/v2/models/stats", timeout_s=10)["model_stats"]:
            if entry["name"] in models:
                counts = (entry["inference_stats"][what].get("count", 0) for what in ("success", "fail"))
                found[entry["name"]] = found.get(entry["name"], 0) + sum(map(int, counts))
        return found
    return {}
