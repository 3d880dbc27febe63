"""Reads a Triton log: why a model was refused, why the server ended, what it said last."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

_TAIL_LINES = 15
# In the order of trust: the last line that names a model holds its reason whole.
_REFUSALS = (
    re.compile(r"ensemble '?(?P<model>[^' ]+)'? (?P<reason>(?:depends on|contains models).*)\"$", re.MULTILINE),
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)\"$", re.MULTILINE),
    re.compile(r"failed to load model '(?P<model>[^']+)': (?P<reason>.*)\"$", re.MULTILINE),
    re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)\"$", re.MULTILINE),
)
# What Triton answers to a request to load, around the reason.
_NOT_LOADED = re.compile(
    r"\S+: load failed for model '[^']+': version \d+ is at UNAVAILABLE state: "
    r"(?:(?:Internal|Invalid argument|Unavailable|Unsupported|Not found|Unknown): )?(?P<reason>.*?)[;\s]*\(HTTP \d+\)",
    re.DOTALL,
)
# Of Python in a stub: paths of a temporary folder, which nobody can look at later.
_TRACEBACK = re.compile(r"\n\nAt:\n(?:  .*\n?)*")
_FATAL = re.compile(r"^(?:error|failed).*", re.MULTILINE)
_PORT_TAKEN = re.compile(r"Socket '(?P<address>[^']+)' already in use")
# A stub that does not answer for a second is taken for dead, and what the server then does ends it, if it is loading.
_STOOD_STILL = "boost::interprocess::lock_exception"
# Without a GPU the wheel's server complains of what it does not find; tables repeat what was said before.
_NOISE = re.compile(r"pinned_memory|CUDA driver|CudaDriverHelper|NVML|DCGM|^[+|]|^\s*$")


def refusals(text: str) -> dict[str, str]:
    """Return why each model was refused, by model name.

    Ensembles refused only because a step was refused are left out, so that causes stand alone.
    """
    dependents, *causes = (
        {match["model"]: _first_part(match["reason"]) for match in pattern.finditer(text)} for pattern in _REFUSALS
    )
    reasons: dict[str, str] = {}
    for found in causes:
        reasons |= found
    return reasons or dependents


def reason_not_loaded(text: str) -> str:
    """Return the reason for which Triton did not load a model, out of what it answers to the request."""
    found = _NOT_LOADED.fullmatch(text)
    return found["reason"] if found else text


def without_traceback(text: str) -> str:
    """Cut the Python traceback that a stub appends to a reason."""
    return _TRACEBACK.sub("", text)


def last_words(text: str) -> str:
    """Return Triton's own closing error, or the last lines that say something."""
    fatal = _FATAL.findall(text)
    return fatal[-1] if fatal else "\n".join(informative_lines(text)[-_TAIL_LINES:])


def informative_lines(text: str) -> list[str]:
    """Return the lines of a log without tables and without complaints about a missing GPU."""
    return [line for line in text.splitlines() if not _NOISE.search(line)]


def passing_reason(text: str) -> str | None:
    """Say why a start failed that may succeed when it is tried again; None for any other reason."""
    if found := _PORT_TAKEN.search(text):
        return f"{found['address']} was taken before Triton could listen there"
    if _STOOD_STILL in text:
        return "the machine stood still for a second in which a model was loaded, and Triton ended"
    return None


def read(log: Path | None) -> str:
    """Return a log's text; empty when there is none."""
    return log.read_text(errors="replace", encoding="utf-8") if log is not None and log.exists() else ""


def set_aside(log: Path) -> None:
    """Rename a log to the first number that is free, as in ``triton.1.log``, where there is one."""
    number = next(number for number in itertools.count(1) if not _numbered(log, number).exists())
    if log.exists():
        log.rename(_numbered(log, number))


def _numbered(log: Path, number: int) -> Path:
    return log.with_name(f"{log.stem}.{number}{log.suffix}")


def _first_part(reason: str) -> str:
    """Cut the Python traceback that the stub appends, and undo the log's escapes."""
    return reason.split("\\n\\nAt:")[0].replace("\\n", "\n").strip()
