"""Runs Triton so that nothing outlives the process that started it. A script of its own: standard library only.

It sits between mmdeploy and Triton, because nothing else survives every way of dying: a handler does not run
on SIGKILL, and the kernel's parent-death signal is sent when the starting *thread* ends. It watches its parent
through a pidfd, adopts orphaned stubs as a subreaper, and on SIGTERM, on its parent's death or on Triton's own end
it stops Triton, kills what is left of its descendants and removes the shared memory and the run folder.

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
_POLL_S = 0.5


def main(parent: int, grace_s: float, shm_prefix: str, run_folder: Path, command: list[str]) -> int:
    """Run the command until it ends, SIGTERM arrives or the parent is gone; return the command's exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeup, notify = os.pipe()
    os.set_blocking(notify, False)
    signal.set_wakeup_fd(notify)
    stop = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda signum, frame: stop.append(signum))
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    child = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    with contextlib.suppress(OSError, AttributeError):  # a kernel without pidfd: getppid is asked in the loop
        poll.register(os.pidfd_open(parent), select.POLLIN)
    while child.poll() is None and not stop and os.getppid() == parent:
        poll.poll(_POLL_S * 1000)
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(wakeup, False)
            os.read(wakeup, 4096)
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    child.kill()
    code = child.wait()
    _kill_descendants()
    for region in Path("/dev/shm").glob(f"{shm_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(run_folder, ignore_errors=True)
    return code


def _kill_descendants() -> None:
    """Kill and reap until no child is left: orphans are handed to this process, the subreaper."""
    own = os.getpid()
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    code = main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5:])
    sys.exit(code if code >= 0 else 128 - code)
