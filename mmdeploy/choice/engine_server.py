"""The process of one candidate: loads one engine and answers a controller until its end of the socket closes.

Run as ``python -P -m mmdeploy.choice.engine_server DESCRIPTOR``, the descriptor of a connected socket. A request is
a pickled pair of a verb and its arguments; an answer is ``("ok", result)``, or ``("error", message)`` for what the
engine refused. Verbs: ``load``, ``time``, ``infer``.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from mmdeploy import engines
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Array, FeedDict, MethodOptions, Runner
from mmdeploy.core.errors import EngineError, MmdeployError

_PR_SET_PDEATHSIG = 1


class Server:
    """What the verbs do."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._runner: Runner | None = None
        self._requests: tuple[FeedDict, ...] = ()

    @property
    def runner(self) -> Runner:
        """The loaded engine."""
        if self._runner is None:
            raise EngineError("no engine is loaded yet")
        return self._runner

    def load(self, artifact: Artifact, options: MethodOptions, requests: tuple[FeedDict, ...]) -> Any:
        """Load an engine, answer one request, and return the engine's inputs and outputs."""
        self._runner = engines.METHODS.of(options).load(artifact, options)
        self._requests = requests
        self.runner.infer(requests[0])
        return self.runner.inputs, self.runner.outputs

    def time(self, first: int, count: int) -> list[float]:
        """Return the milliseconds of each of ``count`` requests from the endless cycle, after one that is not counted.

        That one brings caches and the clock back to where other candidates' requests took them from.
        """
        infer, requests, clock = self.runner.infer, self._requests, self._clock
        infer(requests[first % len(requests)])
        taken = []
        for number in range(first, first + count):
            feed_dict = requests[number % len(requests)]
            started = clock()
            infer(feed_dict)
            taken.append((clock() - started) * 1e3)
        return taken

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request."""
        return self.runner.infer(feed_dict)


def serve(connection: Connection) -> None:
    """Answer requests until the other side is gone."""
    server = Server()
    gc.freeze()
    gc.disable()  # engines hold no cycles, and a collection would be timed as inference
    while True:
        try:
            verb, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        answer: tuple[str, Any]
        try:
            answer = ("ok", getattr(server, verb)(*arguments))
        except MmdeployError as error:
            answer = ("error", error.message)
        except Exception as error:  # noqa: BLE001 - a failing engine puts a candidate out, whatever it raises
            answer = ("error", f"{type(error).__name__}: {error}")
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionError):
            return


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    serve(Connection(int(sys.argv[1])))
