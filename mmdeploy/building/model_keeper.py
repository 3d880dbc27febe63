"""Asks the process that has loaded the model for the processes of steps that work with it."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmdeploy.planning.kinds import EXPORT, OUTPUTS, STAND_IN
from mmdeploy.planning.steps import Step
from mmdeploy.recipe.sharing import above
from mmdeploy.worker.model_process import NUMBER, Work, keep
from mmdeploy.worker.task import Task

#: Steps for whose sake the model is loaded once: one alone may as well load it itself.
_WORTHWHILE = 2


def works_with_model(step: Step) -> bool:
    """Say whether a step calls modules of the recipe's model, or changes them."""
    return step.sort.on_module or step.sort in (EXPORT, OUTPUTS, STAND_IN)


class ForkedStep:
    """The process of a step, which another process forked; like one of `multiprocessing`."""

    def __init__(self, told: int) -> None:
        """Take the descriptor that the process's id, and later its exit status, come from."""
        self._told = told
        self._pid: int | None = None
        self._code: int | None = None

    @property
    def exitcode(self) -> int | None:
        """Exit status, a signal as a negative number; None while it runs."""
        return self._code

    def is_alive(self) -> bool:
        """Say whether it runs, or is still to be forked."""
        self.join(0)
        return self._code is None

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._code is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._told], [], [], left)[0]:
                return
            said = os.read(self._told, NUMBER.size)
            if not said:  # whoever forked it died, and it with that
                self._code = -signal.SIGKILL
            elif self._pid is None:
                (self._pid,) = NUMBER.unpack(said)
            else:
                (self._code,) = NUMBER.unpack(said)
        if self._told >= 0:
            os.close(self._told)
            self._told = -1

    def terminate(self) -> None:
        """End it."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.is_alive() and self._pid is not None:
            os.kill(self._pid, number)


class ModelKeeper:
    """Has the model loaded while several steps are left that work with it."""

    def __init__(self, context: ForkServerContext, logs: Path, work: Work) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            context: Forks what forks.
            logs: Folder for the log of what the factory prints while it is loaded.
            work: What a step's process does.
        """
        self._context, self._logs, self._work = context, logs, work
        self._left: frozenset[str] = frozenset()
        self._channel: socket.socket | None = None
        self._process: BaseProcess | None = None

    def foresee(self, steps: Iterable[Step]) -> None:
        """Take note of which steps are left to be started; where none of them works with the model, it is let go."""
        self._left = frozenset(step.id for step in steps if works_with_model(step))
        if not self._left:
            self._close()

    def wanted(self, task: Task) -> bool:
        """Say whether a step is to be forked from here."""
        step, components = task.step, task.recipe.components
        if task.processes > 1 and step.sort.trains:
            return False
        if works_with_model(step):
            return self._channel is not None or len(self._left | {step.id}) >= _WORTHWHILE
        asks_upstream = step.component in components and bool(above(components, step.component))
        return asks_upstream and self._channel is not None

    def start(self, task: Task, sender: Connection, log: Path) -> ForkedStep:
        """Fork a step."""
        if self._channel is None or not self._is_alive():
            self._open(task)
        assert self._channel is not None
        told, telling = os.pipe()
        given = os.memfd_create("task", os.MFD_CLOEXEC)
        try:
            with open(given, "wb", closefd=False) as file:
                pickle.dump((task, log), file)
            os.lseek(given, 0, os.SEEK_SET)
            socket.send_fds(self._channel, [b"s"], [given, sender.fileno(), telling])
        finally:
            os.close(given)
            os.close(telling)
        return ForkedStep(told)

    def stop(self) -> None:
        """End it, and with it every step that it forked."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()
        self._close()

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def _open(self, task: Task) -> None:
        self._close()
        ours, theirs = self._context.Pipe(duplex=True)
        self._process = self._context.Process(
            target=keep, args=(task, theirs, self._logs / "model.log", self._work), name="model"
        )
        self._process.start()
        theirs.close()
        self._channel = socket.socket(fileno=os.dup(ours.fileno()))
        ours.close()

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
