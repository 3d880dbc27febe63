"""A process that has loaded the recipe's model, and forks the processes of steps that work with it.

It stands between the fork server, whose libraries it shares, and those steps. What loading reads is watched here once,
and belongs to each step that is forked. A model that cannot be shared so is loaded by each step, as everywhere else:
one that does not load (the step says why), or whose factory started threads or processes, opened files that it keeps,
a GPU or shared memory, none of which a fork copies.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmdeploy.core.temporary import temporary_folder
from mmdeploy.model import held_model
from mmdeploy.model.torch_model import identity, load_model
from mmdeploy.worker.step_process import redirect
from mmdeploy.worker.task import Task
from mmdeploy.worker.watched_inputs import watched_recipe

logger = logging.getLogger(__name__)

#: Runs a step: the task, where to send what comes of it, the step's log.
Work = Callable[[Task, Connection, Path], None]
#: What is said of a step's process: its id when it is forked, its exit status when it has ended.
NUMBER = struct.Struct("q")
#: Descriptors that come with a request: the pickled task and log, where the step's results go, and those numbers.
DESCRIPTORS = 3
#: What a pool of threads that was shut down may take to end.
_MOMENT_S = 2.0
#: Exit status of a process that cannot be forked from, and of one that forked all that it was asked to.
_UNFIT, _SERVED = 3, 4

#: Where glibc has semaphores.
_SEMAPHORE = "/dev/shm/sem."


def keep(task: Task, requests: Connection, log: Path, work: Work) -> None:
    """Load the model in a process of its own and fork steps until nobody can ask for one any more.

    Args:
        task: A step that works with the model.
        requests: Socket that asks for steps, a byte and `DESCRIPTORS` each.
        log: What the factory prints goes there.
        work: Runs a step in its process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    redirect(log)
    with socket.socket(fileno=os.dup(requests.fileno())) as channel:
        requests.close()
        loaded = multiprocessing.get_context("fork").Process(target=_loaded, args=(task, channel, work))
        loaded.start()
        loaded.join()
        if loaded.exitcode != _SERVED:  # whatever the factory did to it
            _serve(channel, work, None)


@dataclass(frozen=True)
class _Before:
    """What a step's process has that has not loaded the model yet: it is given back to those that are forked."""

    random: held_model.RandomStates
    threads: int


def _loaded(task: Task, channel: socket.socket, work: Work) -> None:
    import torch

    _end_with_parent()
    before = _Before(held_model.RandomStates.now(), torch.get_num_threads())
    files, shared = _open_files(), _shared_memory()
    torch.set_num_threads(1)  # threads that have worked are not there in a fork, where others wait for them
    try:
        model = _watched_model(task)
    except Exception:
        logger.info("the model is loaded by each step", exc_info=True)
        sys.exit(_UNFIT)
    if told := _unfit(files, shared):
        logger.info("the model is loaded by each step, since its factory left %s", told)
        sys.exit(_UNFIT)
    held_model.hold(model)
    gc.collect()
    gc.freeze()
    if torch.get_num_threads() != 1:  # as the factory wants it
        before = _Before(before.random, torch.get_num_threads())
    _serve(channel, work, before)
    sys.exit(_SERVED)


def _watched_model(task: Task) -> held_model.HeldModel:
    recipe = task.recipe.model
    before = held_model.RandomStates.now()
    with temporary_folder("model") as logs:
        with watched_recipe(task, logs):
            model = load_model(
                recipe.factory, root=task.recipe.root, weights=recipe.weights, prefix=recipe.prefix,
                adapters=recipe.adapters, allow_pickle=recipe.allow_pickle,
            )  # fmt: skip
        reads = b"".join(log.read_bytes() for log in sorted(logs.glob("*.reads")))
    after = held_model.RandomStates.now()
    known = identity(
        recipe.factory, task.recipe.root, recipe.weights, recipe.prefix, recipe.adapters,
        allow_pickle=recipe.allow_pickle,
    )  # fmt: skip
    return held_model.HeldModel(known, model, after.only(after.moved_since(before)), reads)


def _unfit(files: set[str], shared: set[str]) -> str | None:
    """Say what keeps this process from being forked; None for nothing."""
    if not _alone():
        return "threads behind"
    if Path(f"/proc/self/task/{os.getpid()}/children").read_text().strip():
        return "processes behind"
    if more := _open_files() - files:
        return f"{sorted(more)[0]} open"
    if _shared_memory() - shared:
        return "memory that a fork would write to as well"
    return None


def _alone() -> bool:
    """Say whether this process is down to one thread; those that loaded weights get a moment to end."""
    deadline = time.monotonic() + _MOMENT_S
    while len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - one name a thread
        if time.monotonic() > deadline:
            return False
        for thread in threading.enumerate():
            if type(thread).__name__ == "TMonitor":  # of tqdm's bars, which starts it again
                thread.exit()  # type: ignore[attr-defined]
        time.sleep(0.01)
    return True


def _open_files() -> set[str]:
    """Return what this process has open: descriptors and what they lead to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            found.add(f"{os.readlink(f'/proc/self/fd/{name}')} ({name})")  # noqa: PTH115
    return found


def _shared_memory() -> set[str]:
    """Return the mappings in which every process that has them sees what one writes; locks are for that."""
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        _, access, *place = line.split(maxsplit=5)
        if access.startswith("rw") and access.endswith("s") and not place[-1].startswith(_SEMAPHORE):
            found.add(line)
    return found


def _serve(channel: socket.socket, work: Work, before: _Before | None) -> None:
    """Fork a step for each request, and say of each how it ended; return when all are done and no more can come."""
    fork = multiprocessing.get_context("fork")
    running: dict[int, tuple[BaseProcess, int]] = {}
    asked = True
    while asked or running:
        ready = wait([*([channel] if asked else []), *running])
        for sentinel in [one for one in ready if isinstance(one, int)]:
            process, status = running.pop(sentinel)
            process.join()
            _say(status, process.exitcode or 0)
            os.close(status)
        if channel in ready:
            said, descriptors, *_ = socket.recv_fds(channel, 1, DESCRIPTORS)
            if not said:
                asked = False
                continue
            given, results, status = descriptors
            process = fork.Process(target=_step, args=(given, results, work, before), daemon=True)
            process.start()
            _say(status, process.pid or 0)
            for descriptor in (given, results):
                os.close(descriptor)
            running[process.sentinel] = (process, status)


def _say(descriptor: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, NUMBER.pack(number))


def _step(given: int, results: int, work: Work, before: _Before | None) -> None:
    """Run in a step's process."""
    _end_with_parent()
    if before is not None:
        import torch

        model = held_model.held()
        assert model is not None
        before.random.only({*model.random.states} - {"random"}).restore()  # Python seeds its own in each fork
        torch.set_num_threads(before.threads)
    with open(given, "rb", closefd=False) as file:
        task, log = pickle.load(file)
    work(task, Connection(results, readable=False), log)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
