"""Run the steps of a plan side by side, each in a process forked from one that has the libraries loaded.

The fork server imports torch, ONNX and the like once; each step is forked from it in milliseconds with those
pages shared; those that work with the recipe's model from one that has loaded it besides
(`mmdeploy.building.model_keeper`). One step is one process: its memory goes back when it ends, a crash in native code
is one failed step, and Ctrl-C leaves nothing behind. The scheduling process itself imports none of these libraries.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mmdeploy.building.model_keeper import ForkedStep, ModelKeeper
from mmdeploy.core.errors import MmdeployError, StepError
from mmdeploy.planning.kinds import StepKind
from mmdeploy.planning.steps import Step
from mmdeploy.worker.run_step import run_task
from mmdeploy.worker.step_process import Finished, WorkerBugError, log_of, redirect, tell
from mmdeploy.worker.task import Task

_PR_SET_PDEATHSIG = 1
#: Where methods are: what forked steps share.
_METHODS = tuple(
    f"mmdeploy.{room}." for room in ("choice", "engines", "export", "gates", "prune", "quantize", "recover", "recipe")
)


@dataclass
class _Running:
    process: BaseProcess | ForkedStep
    connection: Connection
    started: float
    log: Path


def _named_methods() -> list[str]:
    """Return the modules of the methods that the recipe names, which reading it imported: steps would each do so."""
    return sorted(name for name in sys.modules if name.startswith(_METHODS))


class Workers:
    """Runs tasks in forked processes; a context manager that ends what still runs."""

    def __init__(
        self, kinds: Sequence[StepKind], logs: Path, progress: Callable[[str, int, int | None, str], None]
    ) -> None:
        """Prepare for tasks of some kinds of step.

        Args:
            kinds: The kinds of step that will run: what the fork server imports.
            logs: Folder for one log a step.
            progress: Called with step id, done, total, what.
        """
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            [
                *dict.fromkeys(name for kind in kinds for name in kind.preload),
                "filelock",
                "mmdeploy.worker.run_step",
                *_named_methods(),
                "mmdeploy.worker.preloaded",
            ]
        )
        self._logs = logs
        self._progress = progress
        self._keeper = ModelKeeper(self._context, logs, _work)
        self._running: dict[str, _Running] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __len__(self) -> int:
        return len(self._running)

    def foresee(self, steps: Iterable[Step]) -> None:
        """Take note of which steps are left to be started."""
        self._keeper.foresee(steps)

    def prepare(self, task: Task) -> None:
        """Load what a step that is left, and others, will work with, if it is worth it."""
        with interrupts_held(), contextlib.suppress(OSError):
            self._keeper.prepare(task)

    def start(self, task: Task) -> None:
        """Start a step."""
        log = log_of(self._logs, task.step.id)
        receiver, sender = self._context.Pipe(duplex=False)
        with interrupts_held():
            process: BaseProcess | ForkedStep | None = None
            if self._keeper.wanted(task):
                with contextlib.suppress(OSError):
                    process = self._keeper.start(task, sender, log)
            if process is None:
                process = self._context.Process(target=_work, args=(task, sender, log), name=task.step.id, daemon=True)
                process.start()
            sender.close()
            self._running[task.step.id] = _Running(process, receiver, time.monotonic(), log)

    def wait(self) -> Finished:
        """Wait until one of the running steps ends well.

        Raises:
            MmdeployError: What a step raised; the step's log is named in it.
            WorkerBugError: When a step raised anything else.
        """
        while True:
            by_connection = {running.connection: step_id for step_id, running in self._running.items()}
            for connection in wait(list(by_connection)):
                assert isinstance(connection, Connection)
                finished = self._receive(by_connection[connection])
                if finished is not None:
                    return finished

    def stop(self) -> None:
        """End every running step now."""
        self._keeper.stop()
        for running in self._running.values():
            running.process.terminate()
        for running in self._running.values():
            running.process.join(timeout=2)
            if running.process.is_alive():
                running.process.kill()
                running.process.join()
            running.connection.close()
        self._running.clear()

    def _receive(self, step_id: str) -> Finished | None:
        running = self._running[step_id]
        try:
            kind, *content = running.connection.recv()
        except EOFError:
            raise self._died(step_id) from None
        if kind == "progress":
            self._progress(step_id, *content)
            return None
        self._end(step_id)
        if kind == "error":
            raise _with_log(content[0], running.log)
        if kind == "bug":
            summary, trace = content
            raise WorkerBugError(summary, step=step_id, log=running.log, trace=trace)
        artifact, made = content
        return Finished(step_id, artifact, made, time.monotonic() - running.started)

    def _end(self, step_id: str) -> None:
        running = self._running.pop(step_id)
        running.process.join()
        running.connection.close()

    def _died(self, step_id: str) -> StepError:
        running = self._running[step_id]
        self._end(step_id)
        code = running.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        memory = " (often the kernel, for want of memory)" if code == -signal.SIGKILL else ""
        return StepError(
            f"the process of step {step_id} died: {how}{memory}",
            hint="see the end of its log; --jobs 1 needs the least memory",
            step=step_id,
            log=str(running.log),
        )


def start_tracker() -> None:
    """Start Python's tracker of semaphores, which removes what a step that was ended leaves, without a word about it.

    What it would say lands below the build's own last words, and reads as if something were wrong with them.
    """
    quiet = "ignore:resource_tracker:UserWarning"
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Have Ctrl-C wait until a process is started; this, and the fork server, inherit a mask under which it passes by.

    The mask is that of this thread. Threads of libraries have none: one of them takes the signal, and Python raises
    here all the same. Half-way through a start that would leave a process without its task, which dies with a
    traceback. So a handler of our own keeps it until then.
    """
    start_tracker()  # its own start would unblock the signal again
    held: list[int] = []
    handler = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _with_log(error: MmdeployError, log: Path) -> MmdeployError:
    error.log = error.log or str(log)
    return error


def _work(task: Task, sender: Any, log: Path) -> None:
    """Run in the forked process: do the step, send progress and then one result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the scheduler ends us; Ctrl-C reaches the whole group
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    redirect(log)
    tell(task, sender.send, run_task)
