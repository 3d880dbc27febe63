"""Processes that tests look at, each of which may end between any two looks: one that is gone has no name."""

import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

#: Seconds within which what ends has ended on any machine; nobody waits longer than it takes.
ENDED_S = 60.0


def below(pid: int | None) -> list[psutil.Process]:
    """Return the processes below a process, itself not among them; none if it is gone."""
    assert pid is not None
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def lives(process: psutil.Process) -> bool:
    """Say whether a process runs; one that ended and that nobody has asked about yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def name(process: psutil.Process) -> str:
    """Return a process's name; an empty text if it is gone."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def command(process: psutil.Process) -> list[str]:
    """Return a process's command line; no words if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def folder(process: psutil.Process) -> Path | None:
    """Return the working directory of a process; None if it has ended."""
    try:
        return Path(process.cwd())
    except psutil.NoSuchProcess:
        return None


def listening(process: psutil.Process) -> list[str]:
    """Return the addresses at which a process listens; none if it has ended."""
    try:
        connections = process.net_connections()
    except psutil.NoSuchProcess:
        return []
    return [one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN]


def servers(pid: int | None) -> list[psutil.Process]:
    """Return the tritonservers below a process."""
    return [process for process in below(pid) if name(process) == "tritonserver" and lives(process)]


def stubs(pid: int | None, model: str = "") -> list[psutil.Process]:
    """Return the stubs below a process that live, of one model or of all; each waits for requests or starts to."""
    return [process for process in below(pid) if _serves(command(process), model) and lives(process)]


def stub(pid: int | None, model: str) -> psutil.Process:
    """Return a stub of a model below a process."""
    found = stubs(pid, model)
    assert found, f"no stub serves {model}: {[command(process) for process in below(pid)]}"
    return found[0]


def _serves(words: list[str], model: str) -> bool:
    is_stub = len(words) > 1 and words[0].endswith("triton_python_backend_stub")
    return is_stub and (not model or f"/{model}/" in words[1])


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to processes, those that are left."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill processes, those that are left."""
    send(processes, signal.SIGKILL)


def assert_ended(processes: Iterable[psutil.Process], within_s: float = ENDED_S) -> None:
    """Wait until none of the processes lives."""
    waited, deadline = list(processes), time.monotonic() + within_s
    while left := [process for process in waited if lives(process)]:
        assert time.monotonic() < deadline, f"after {within_s} s still there: {left}"
        time.sleep(0.05)
