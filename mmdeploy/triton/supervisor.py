"""Runs Triton so that nothing outlives the process that started it; a script, standard library only.

It stands between mmdeploy and Triton because nothing else survives every way of dying: no handler runs on
SIGKILL, and the kernel's parent-death signal is sent when the starting *thread* ends. It watches its parent
through a pidfd and adopts orphaned stubs as a subreaper. On SIGTERM, on its parent's death or on Triton's own
end it stops Triton, kills what is left of its descendants, and removes the shared memory and the run folder.
On SIGQUIT it does not wait for requests in flight, and kills Triton, which itself looks once a second only whether
its models are gone.
Should it be killed itself, the kernel kills Triton, and a guard, a fork that only waits for that, kills the rest of
the process group and removes what they leave. Stubs alone would not do: one that waits for a lock in shared memory
that the dead server holds never looks whether its server is there.

Where the command holds the placeholder `SECRET`, the secret is read from the standard input and wiped from Triton's
arguments as soon as Triton has said something, for everybody can read those: by then it has read them.

Usage: ``python -I -S supervisor.py PARENT_PID GRACE_S SHM_PREFIX RUN_FOLDER tritonserver …``
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_MS = 500
_WIPE_POLL_MS = 10
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
#: Stands for the secret in the command.
SECRET = "@SECRET@"


def main(parent: int, grace_s: float, shm_prefix: str, folder: Path, command: list[str]) -> int:
    """Run a command until it ends, a signal asks to stop, or the parent is gone; return its exit code."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked_to_stop: list[int] = []
    for number in _STOPPING:
        signal.signal(number, lambda signum, frame: asked_to_stop.append(signum))
    poll = _poll(parent)
    secret = sys.stdin.read() if any(SECRET in word for word in command) else ""
    command = [word.replace(SECRET, secret) for word in command]
    child = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getpgrp() == os.getpid():  # else it is a group of others too
        _start_guard(shm_prefix, folder)
    while child.poll() is None and not asked_to_stop and os.getppid() == parent:
        if secret and os.fstat(sys.stdout.fileno()).st_size:
            _wipe(child.pid, secret.encode())
            secret = ""
        for descriptor, _ in poll.poll(_WIPE_POLL_MS if secret else _POLL_MS):
            with contextlib.suppress(OSError):  # the parent's pidfd cannot be read, and need not be
                os.read(descriptor, 4096)
    if child.poll() is None and signal.SIGQUIT not in asked_to_stop:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s + 3)
    child.kill()
    code = child.wait()
    _kill_descendants()
    _remove(shm_prefix, folder)
    return code if code >= 0 else 128 - code


def _poll(parent: int) -> select.poll:
    """Return a poll that wakes on any signal and on the parent's end."""
    wakeup, notify = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(notify, False)
    signal.set_wakeup_fd(notify)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    with contextlib.suppress(OSError):  # gone already, or a kernel without pidfd: the loop asks getppid as well
        poll.register(os.pidfd_open(parent), select.POLLIN)
    return poll


def _wipe(pid: int, secret: bytes) -> None:
    """Overwrite a secret in the arguments of a child, where the system lets its parent do that."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name in parentheses may hold anything; arg_start and arg_end are fields 48 and 49 (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            memory.seek(start)
            memory.write(arguments.replace(secret, b"*" * len(secret)))


def _kill_descendants() -> None:
    """Kill and reap until no child is left; orphans become children of this process, the subreaper."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := children.read_text(encoding="utf-8").split():
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def _remove(shm_prefix: str, folder: Path) -> None:
    for region in Path("/dev/shm").glob(f"{shm_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _start_guard(shm_prefix: str, folder: Path) -> None:
    """Fork what cleans up if this process is killed; it is a child, so otherwise it is killed with the others.

    The end of a pipe tells it: no signal is needed, and none of those that ask to stop ends it.
    """
    ended, held = os.pipe()
    if os.fork():
        os.close(ended)  # `held` stays open for as long as this process lives
        return
    try:
        os.close(held)
        signal.set_wakeup_fd(-1)
        for number in _STOPPING:
            signal.signal(number, signal.SIG_IGN)
        os.read(ended, 1)
        _kill_group()
        _remove(shm_prefix, folder)
    finally:
        os._exit(0)


def _kill_group() -> None:
    """Kill the processes of this one's group but itself until there are none; being in it keeps its number taken."""
    group, itself = os.getpgrp(), str(os.getpid())
    while others := [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if process.name != itself and _lives_in(group, process)
    ]:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _lives_in(group: int, process: Path) -> bool:
    try:
        state, _, of_it = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):  # gone meanwhile
        return False
    return int(of_it) == group and state not in "ZX"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5:]))
