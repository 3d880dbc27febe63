"""Run a function on several processes of this machine under Accelerate's launcher, and bring its result back.

The launcher is ``accelerate launch``, in its distributed mode: with ``--cpu`` alone it starts one process whatever
``--num_processes`` says, unless MPI is installed (accelerate issue 2741). Processes meet through files in a folder of
their own and talk over the loopback interface: torch's rendezvous store would listen, without a password, on every
interface. A configuration file that the user has for Accelerate is left out of it.

Every process ends with the one that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.child_process import child_environment
from mmdeploy.core.contracts import Progress, no_progress
from mmdeploy.core.errors import EnvironmentUnfitError, MmdeployError, StepError
from mmdeploy.core.temporary import temporary_folder

logger = logging.getLogger(__name__)

REQUEST, RESULT, PROGRESS, ERROR, MEETING = "request", "result", "progress", "error-", "meeting"
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """What the launched processes are to do.

    Attributes:
        call: ``package.module:function``, called in every process with ``argument`` and a `Progress`.
        argument: Anything that can be pickled.
    """

    call: str
    argument: Any


class LaunchedBugError(Exception):
    """A launched process raised what is not an `MmdeployError`; its traceback is the note."""


def run_launched(
    call: str,
    argument: object,
    *,
    processes: int,
    threads: int,
    log: Path | None = None,
    progress: Progress = no_progress,
) -> Any:
    """Call a function in every one of several processes and return what it returned in the first.

    Args:
        call: ``package.module:function`` of two parameters: ``argument``, and a `Progress`, which reports from the
            first process only. `process_index` tells it where it is.
        argument: Anything that can be pickled.
        processes: How many, at least 1.
        threads: Threads for all of them together.
        log: File that their output is added to; None lets it go where this process's goes.
        progress: Where to report.

    Raises:
        MmdeployError: What the function raised in one of them.
        LaunchedBugError: When it raised anything else.
        StepError: When a process died.
        EnvironmentUnfitError: When there are fewer GPUs than processes, on a machine that has any.
    """
    _check_devices(processes)
    with temporary_folder("launch") as folder, contextlib.ExitStack() as stack:
        (folder / REQUEST).write_bytes(pickle.dumps(Request(call, argument)))
        output = stack.enter_context(log.open("ab")) if log is not None else None
        launcher = subprocess.Popen(
            _command(folder, processes, max(1, threads // processes)),
            env=_environment(folder, max(1, threads // processes)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        with _ended(launcher):
            status = _wait(launcher, folder / PROGRESS, progress)
        return _result(folder, status, processes, log)


def process_index() -> int:
    """Return which of the launched processes this is; 0 where nothing was launched."""
    return int(os.environ.get("RANK", "0"))


def end_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _command(folder: Path, processes: int, threads: int) -> list[str]:
    """Return the launcher's command line; everything that its configuration file could say is said."""
    config = {
        "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU" if processes > 1 else "NO",
        "num_machines": 1, "machine_rank": 0, "num_processes": processes, "mixed_precision": "no", "use_cpu": False,
        "debug": False, "main_training_function": "main", "same_network": True, "rdzv_backend": "c10d",
    }  # fmt: skip
    path = folder / "accelerate.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    several = ["--multi_gpu"] if processes > 1 else []
    return [
        sys.executable, "-m", "accelerate.commands.launch", *several, "--config_file", str(path),
        "--num_processes", str(processes), "--num_machines", "1", "--num_cpu_threads_per_process", str(threads),
        "--rdzv_backend", "c10d", "--rdzv_conf", "store_type=file", "--main_process_port", "0",
        "--monitor_interval", str(_POLL_SECONDS), "--module", "mmdeploy.training.launched", str(folder),
    ]  # fmt: skip


def _environment(folder: Path, threads: int) -> dict[str, str]:
    import torch

    environment = {name: value for name, value in child_environment().items() if not name.startswith("ACCELERATE_")}
    return environment | {
        "OMP_NUM_THREADS": str(threads),
        "ACCELERATE_USE_CPU": str(not torch.cuda.is_available()).lower(),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "TMPDIR": str(folder),  # of torch's rendezvous file
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # it would listen on every interface
    }


def _check_devices(processes: int) -> None:
    import torch

    if processes < 1:
        raise ValueError(f"processes is {processes}, at least 1 is needed")
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise EnvironmentUnfitError(
            f"{processes} processes need as many GPUs, this machine has {torch.cuda.device_count()}",
            hint="ask for fewer processes, or hide the GPUs to train on the CPU (CUDA_VISIBLE_DEVICES=)",
        )


@contextlib.contextmanager
def _ended(launcher: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the launcher, and with it its processes, when the context is left while it still runs."""
    try:
        yield
    finally:
        if launcher.poll() is None:
            launcher.terminate()  # it ends its processes then; if it is killed, the kernel does
            try:
                launcher.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()


def _wait(launcher: subprocess.Popen[bytes], reports: Path, progress: Progress) -> int:
    read = 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(_POLL_SECONDS)
        if reports.exists():
            with reports.open("rb") as stream:
                stream.seek(read)
                for line in stream:
                    if line.endswith(b"\n"):
                        read += len(line)
                        progress(*json.loads(line))
        if launcher.returncode is not None:
            return launcher.returncode


def _result(folder: Path, status: int, processes: int, log: Path | None) -> Any:
    """Return the first process's result, or raise the first error: others follow when one process is gone."""
    files = sorted(folder.glob(f"{ERROR}*"), key=lambda path: path.stat().st_mtime_ns)
    errors = [pickle.loads(path.read_bytes()) for path in files]
    where = str(log) if log is not None else None
    for error in errors:
        if isinstance(error, MmdeployError):
            raise error
    if errors:
        summary, trace = errors[0]
        bug = LaunchedBugError(summary)
        bug.add_note(trace)
        raise bug
    if status or not (folder / RESULT).exists():
        raise StepError(
            f"one of {processes} training processes died, and the launcher ended with exit status {status}",
            hint="see the log for the signal; SIGKILL is often the kernel, for want of memory: ask for fewer processes",
            log=where,
        )
    return pickle.loads((folder / RESULT).read_bytes())
