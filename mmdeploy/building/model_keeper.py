"""Asks the process that has loaded the model for the processes of steps that work with it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmdeploy.planning.kinds import EXPORT, OUTPUTS, STAND_IN
from mmdeploy.planning.recipe_inputs import RecipeInputs, same_model
from mmdeploy.planning.steps import Step
from mmdeploy.recipe.sharing import above
from mmdeploy.worker.model_process import NUMBER, Work, keep
from mmdeploy.worker.task import Task

#: Steps for whose sake the model is loaded once: one alone may as well load it itself.
_WORTHWHILE = 2
#: What processes that were killed may take to end.
_ENDING_S = 5.0


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
            if not wait([self._told], left):
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
            with contextlib.suppress(ProcessLookupError):  # it, or what forked it, has ended meanwhile
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
        self._processes: list[BaseProcess] = []  # the last one is asked; those before it end with their steps
        self._inputs: RecipeInputs | None = None

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

    def prepare(self, task: Task) -> None:
        """Begin to load the model where a step, which is still to be started, is to be forked from here.

        Raises:
            OSError: If a process for it cannot be had.
        """
        if self._channel is None and self.wanted(task):
            self._open(task)

    def start(self, task: Task, sender: Connection, log: Path) -> ForkedStep:
        """Fork a step, from a process with the model as it was when the step was planned.

        Raises:
            OSError: If that process was ended just now, for want of memory perhaps.
        """
        if self._channel is None or not self._is_alive() or not self._is_as_planned(task):
            self._open(task)
        told, telling = os.pipe()
        given = os.memfd_create("task", os.MFD_CLOEXEC)
        try:
            with open(given, "wb", closefd=False) as file:
                pickle.dump((task, log), file)
            os.lseek(given, 0, os.SEEK_SET)
            assert self._channel is not None
            descriptors = [given, sender.fileno(), telling]
            socket.send_fds(self._channel, [b"s"], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            os.close(told)
            raise
        finally:
            os.close(given)
            os.close(telling)
        return ForkedStep(told)

    def stop(self) -> None:
        """End it, and with it every step that it forked; what they had open is closed then."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(_ENDING_S)
        self._processes.clear()
        if self._channel is not None:  # all that it forked have the other end, and die with it
            wait([self._channel], _ENDING_S)
        self._close()

    def _is_as_planned(self, task: Task) -> bool:
        return self._inputs is None or task.inputs is None or same_model(self._inputs, task.inputs)

    def _is_alive(self) -> bool:
        return bool(self._processes) and self._processes[-1].is_alive()

    def _open(self, task: Task) -> None:
        self._close()
        self._inputs = task.inputs
        ours, theirs = self._context.Pipe(duplex=True)
        log = self._logs / "model.log"
        process = self._context.Process(target=keep, args=(task, theirs, log, self._work), name="model")
        process.start()
        self._processes = [*(one for one in self._processes if one.is_alive()), process]
        theirs.close()
        self._channel = socket.socket(fileno=os.dup(ours.fileno()))
        ours.close()

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
