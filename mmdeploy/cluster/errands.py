"""Work on one node of a cluster that is more than a step, such as a whole build: in a process of its own there.

That process is none of Ray's: it may start others, serve, and measure. When its task is ended, or Ray's part of the
node, it is interrupted as by Ctrl-C, and ends what it started. What is lost runs again, elsewhere if it can.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmdeploy.cluster.known_nodes import KnownNodes, on_node
from mmdeploy.cluster.nodes import Node
from mmdeploy.core.child_process import child_environment
from mmdeploy.core.errors import EnvironmentUnfitError, MmdeployError, StepError
from mmdeploy.core.temporary import temporary_folder

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
#: Times that work is begun before it counts as what ends its nodes; seconds between two looks at whether they are up.
_ATTEMPTS, _LOOK_S = 3, 3.0
#: Seconds that what is ended has for it.
_ENDING_S = 10.0
#: Bytes of a log that come back, from its end.
_LOG_BYTES = 64 * 1024
_WORK, _ANSWER, _LOG = "work", "answer", "log"
_CHILD = "import sys; from mmdeploy.cluster.errands import work; work(*sys.argv[1:])"


@dataclass(frozen=True)
class Errand:
    """What is to be done.

    Attributes:
        call: A function of a module of mmdeploy.
        given: What it is called with.
        variables: Environment variables of its process; None for those that are not set.
    """

    call: Callable[[Any], Any]
    given: Any
    variables: Mapping[str, str | None]


@dataclass(frozen=True)
class Ended:
    """What came of it.

    Attributes:
        kind: Whether ``content`` is what the function returned, an `MmdeployError`, or the words of a bug.
        content: See there.
        node: Host name of where it was done.
        log: The end of what was printed.
    """

    kind: Literal["done", "error", "bug"]
    content: Any
    node: str
    log: str = ""


@dataclass
class _Sent:
    errand: Errand
    fits: Callable[[Node], bool]
    gpus: int
    answer: Any = None
    ids: tuple[str, ...] = ()
    lost: int = 0
    tried: list[str] = field(default_factory=list)


class Errands:
    """Has work done on nodes of the cluster that this process is connected to; ends what still runs at the end."""

    def __init__(self, nodes: KnownNodes) -> None:
        """Take the nodes."""
        self._nodes, self._sent = nodes, dict[str, _Sent]()

    def __enter__(self) -> Errands:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        answers = [one.answer for one in self._sent.values()]
        for answer in answers:
            ray.cancel(answer, force=True)
        if answers:
            ray.wait(answers, num_returns=len(answers), timeout=_ENDING_S)

    def send(self, name: str, errand: Errand, fits: Callable[[Node], bool], *, gpus: int = 0) -> None:
        """Have work done on a node that has all its cores for it.

        Args:
            name: To ask for it by.
            errand: The work.
            fits: Says whether a node may do it.
            gpus: GPUs that it takes.

        Raises:
            EnvironmentUnfitError: If no node may.
        """
        self._sent[name] = _Sent(errand, fits, gpus)
        self._begin(name)

    def result(self, name: str) -> Ended:
        """Wait for what comes of work that was sent.

        Raises:
            StepError: If it was lost too often, or no node is left that may do it.
        """
        import ray

        while True:
            sent = self._sent[name]
            ready, _ = ray.wait([sent.answer], timeout=_LOOK_S)
            if ready:
                try:
                    ended: Ended = ray.get(sent.answer)
                except ray.exceptions.RayError as error:
                    self._again(name, str(error).strip().splitlines()[0])
                else:
                    del self._sent[name]
                    return ended
            elif {node.id for node in self._nodes.alive()}.isdisjoint(sent.ids):
                ray.cancel(sent.answer, force=True)
                self._again(name, "its node is gone")

    def _begin(self, name: str) -> None:
        import ray

        sent = self._sent[name]
        fit = [node for node in self._nodes.alive() if node.cores > 0 and not node.refused and sent.fits(node)]
        if not fit:
            del self._sent[name]
            raise EnvironmentUnfitError(f"the cluster has no node for {name}")
        most = max(node.cores for node in fit)
        sent.ids = tuple(node.id for node in fit if node.cores == most)
        remote = ray.remote(max_calls=1, max_retries=0)(_run_there)
        asked = {"num_cpus": most, "num_gpus": sent.gpus, "label_selector": on_node(*sent.ids)}
        sent.answer = remote.options(name=name, **asked).remote(sent.errand)

    def _again(self, name: str, why: str) -> None:
        sent = self._sent[name]
        sent.lost += 1
        logger.warning("%s was lost on the cluster: %s", name, why)
        if sent.lost < _ATTEMPTS:
            with contextlib.suppress(EnvironmentUnfitError):
                self._begin(name)
                return
        self._sent.pop(name, None)
        raise StepError(
            f"{name} was lost {sent.lost} times on the cluster: {why}",
            hint="its process or its node ended: for want of memory, or by what it runs; see Ray's logs there",
        )


def _run_there(errand: Errand) -> Ended:
    """Do the work in a process that is interrupted when this one ends."""
    environment = child_environment()
    for variable, value in errand.variables.items():
        environment.pop(variable, None)
        if value is not None:
            environment[variable] = value
    with temporary_folder("errand") as folder:
        (folder / _WORK).write_bytes(pickle.dumps((errand.call, errand.given)))
        with (folder / _LOG).open("wb") as log:
            command = [sys.executable, "-c", _CHILD, str(folder), str(os.getpid())]
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
        told = (folder / _LOG).read_bytes()[-_LOG_BYTES:].decode(errors="replace")
        if not (folder / _ANSWER).is_file():
            return Ended("bug", f"its process ended with {done.returncode}", socket.gethostname(), told)
        kind, content = pickle.loads((folder / _ANSWER).read_bytes())
    return Ended(kind, content, socket.gethostname(), told)


def work(place: str, parent: str) -> None:
    """Do, in a process of its own, what lies in a folder, and leave the answer there.

    Args:
        place: The folder.
        parent: Number of the process that waits for it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != int(parent):
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    folder = Path(place)
    call, given = pickle.loads((folder / _WORK).read_bytes())
    try:
        answer = ("done", call(given))
    except MmdeployError as error:
        logger.exception("it failed")
        answer = ("error", error)
    except Exception as error:
        logger.exception("it failed unexpectedly")
        answer = ("bug", traceback.format_exception_only(error)[-1].strip())
    staged = folder / f"{_ANSWER}.staged"
    staged.write_bytes(pickle.dumps(answer))
    staged.rename(folder / _ANSWER)
