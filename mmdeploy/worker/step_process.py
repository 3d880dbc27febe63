"""What the process of a step tells whoever started it, wherever that is: progress, and then one result or error."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Progress
from mmdeploy.core.errors import MmdeployError, StepError
from mmdeploy.worker.task import Task

logger = logging.getLogger(__name__)

_LESS_MEMORY = "use fewer samples or smaller batches, --jobs 1, or a machine with more memory"
#: What PyTorch, ONNX Runtime and C++ say when they are refused memory; none of them raises a `MemoryError`.
_NO_MEMORY = ("can't allocate memory", "Failed to allocate memory", "bad_alloc")


class WorkerBugError(Exception):
    """A step raised what is not an `MmdeployError`: a bug, with the worker's traceback as its note.

    Attributes:
        step: The step's id.
        log: Path of its log.
    """

    def __init__(self, summary: str, *, step: str, log: Path, trace: str) -> None:
        super().__init__(f"step {step}: {summary}")
        self.step, self.log = step, str(log)
        self.add_note(trace)


@dataclass(frozen=True)
class Finished:
    """A step that ended well.

    Attributes:
        step_id: The step.
        artifact: What it made.
        made: False when another build had just made it.
        seconds: From its start to its end.
    """

    step_id: str
    artifact: Artifact
    made: bool
    seconds: float


def log_of(logs: Path, step_id: str) -> Path:
    """Return the file that what a step's tools print goes to."""
    return logs / f"{step_id.replace('/', '.')}.log"


def tell(
    task: Task, send: Callable[[tuple[Any, ...]], None], runs: Callable[[Task, Progress], tuple[Any, ...]]
) -> None:
    """Run a step and send what comes of it.

    Args:
        task: The step.
        send: Takes ``("progress", done, total, what)`` now and then, and at last one of ``("done", …)`` with what
            ``runs`` returned, ``("error", MmdeployError)`` and ``("bug", summary, traceback)``.
        runs: Runs it.
    """
    last = 0.0

    def progress(done: int, total: int | None, what: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 0.2:
            last = time.monotonic()
            send(("progress", done, total, what))

    try:
        send(("done", *runs(task, progress)))
    except MmdeployError as error:
        logger.exception("step %s failed", task.step.id)
        if _wants_memory(error):
            error.hint = _LESS_MEMORY
        send(("error", error))
    except MemoryError:
        logger.exception("step %s failed", task.step.id)
        send(("error", StepError("out of memory", hint=_LESS_MEMORY, step=task.step.id)))
    except Exception as error:
        logger.exception("step %s failed unexpectedly", task.step.id)
        summary = traceback.format_exception_only(error)[-1].strip()
        send(("bug", summary, traceback.format_exc()))


def _wants_memory(error: BaseException) -> bool:
    """Return whether memory ran out somewhere below an error: what calls a library or a recipe translates all alike."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, MemoryError) or any(told in str(below) for told in _NO_MEMORY):
            return True
        below = below.__cause__
    return False


def redirect(log: Path) -> None:
    """Send everything that libraries print to the step's log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    logging.basicConfig(level=logging.INFO, force=True, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
