"""Reads a Triton log: why a model was refused, why the server ended, what came last."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL_LINES = 15
_STATUS = re.compile(r"^\| (?P<model>\S+) +\| (?P<version>\S+) +\| (?P<status>UNAVAILABLE.*?) *\|$", re.MULTILINE)
_LOADED = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<status>.*)\"$", re.MULTILINE)
_REPOSITORY = re.compile(r"model_repository_manager\.cc:\d+\] \"?(?P<reason>.*?)\"?$", re.MULTILINE)
_PORT_TAKEN = re.compile(r"Socket '(?P<socket>[^']+)' already in use")
# Without a GPU the wheel's server complains about what it does not find, at level E; none of it matters.
_HARMLESS = re.compile(r"CudaDriverHelper|unable to create stream|NVML|DCGM|pinned_memory_manager|^[+|]|^$")


def refused_models(text: str) -> dict[str, str]:
    """Return the reason for each model that could not be loaded, by model name.

    Reasons come from the errors as they were logged, which are whole; the load-status table fills in the rest.
    """
    reasons = {found["model"]: found["status"] for found in _STATUS.finditer(text)}
    reasons |= {found["model"]: found["status"] for found in _LOADED.finditer(text)}
    return {model: reason.replace("\\n", "\n").strip() for model, reason in reasons.items()}


def repository_errors(text: str) -> list[str]:
    """Return what the repository manager refused: bad configs, and ensembles whose steps are missing."""
    lines = [line for line in text.splitlines() if line.startswith("E")]
    return [found["reason"].replace("\\n", "\n") for line in lines if (found := _REPOSITORY.search(line))]


def taken_socket(text: str) -> str | None:
    """Return the address that Triton could not bind to, if that is why it ended."""
    found = _PORT_TAKEN.search(text)
    return found["socket"] if found else None


def tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines that say something."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join([line for line in text.splitlines() if not _HARMLESS.search(line)][-lines:])
