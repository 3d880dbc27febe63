"""A candidate's engine in a process of its own, asked over a socket; a `contracts.Runner`.

Engines share nothing then: no thread pool, no allocator, no library state; and one that crashes puts itself out and
not the build. A subprocess and not `multiprocessing`, whose workers may have no children of their own.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.child_process import child_environment
from mmdeploy.core.contracts import Array, FeedDict, MethodOptions
from mmdeploy.core.errors import EngineError, InferenceError

#: An engine that takes longer for one answer is taken for dead.
LOAD_SECONDS, ANSWER_SECONDS = 600.0, 300.0


class EngineProcess:
    """Starts at once; `loaded` waits until the engine has answered its first request."""

    def __init__(self, artifact: Artifact, options: MethodOptions, requests: Sequence[FeedDict]) -> None:
        """Start the process and send it the engine.

        Args:
            artifact: The built engine.
            options: The engine's options.
            requests: What `time` asks, in a cycle.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mmdeploy.choice.engine_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=child_environment(),
            )  # fmt: skip
        self._connection = Connection(ours.detach())
        self._specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]] = ((), ())
        self._send("load", artifact, options, tuple(requests))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it takes."""
        return self._specs[0]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it gives."""
        return self._specs[1]

    def loaded(self) -> Self:
        """Wait until the engine is loaded.

        Raises:
            EngineError: If it cannot be, or the process died.
        """
        self._specs = self._receive(LOAD_SECONDS)
        return self

    def time(self, first: int, count: int) -> list[float]:
        """Return the milliseconds of each of ``count`` requests, from number ``first`` of the endless cycle.

        Raises:
            EngineError: If the engine refused one, or the process died.
        """
        self._send("time", first, count)
        taken: list[float] = self._receive(ANSWER_SECONDS)
        return taken

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request; every array has the batch as axis 0.

        Raises:
            InferenceError: If the engine refuses the request, or the process died.
        """
        try:
            self._send("infer", dict(feed_dict))
            answered: dict[str, Array] = self._receive(ANSWER_SECONDS)
        except EngineError as error:
            raise InferenceError(error.message) from error
        return answered

    def close(self) -> None:
        """End the process; calling it twice is fine."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, verb: str, *arguments: Any) -> None:
        # Its death is found out when the answer is awaited.
        with contextlib.suppress(OSError):
            self._connection.send((verb, arguments))

    def _receive(self, seconds: float) -> Any:
        try:
            if not self._connection.poll(seconds):
                self.close()
                raise EngineError(f"the engine did not answer within {seconds:g} s")
            kind, result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise EngineError(f"the engine's process died: {self._how_it_ended()}") from error
        if kind == "error":
            raise EngineError(str(result))
        return result

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        self.close()
        if code is None:
            return "it closed its socket"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
