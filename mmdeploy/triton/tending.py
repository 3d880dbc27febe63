"""Keeps a server answering: loads models again whose stub died, and starts a server again that died or hangs.

A stub that ended is noticed at the next look, a stub that hangs by a probe every `PROBE_EVERY_S`. A server that ended
is started again at once, on the same ports and with the same key; one that goes on to die waits longer each time, but
never so long that clients are without it for ten seconds where its models load in five, and one that does so too often
is given up: whoever started mmdeploy then decides.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from mmdeploy.core.errors import EnvironmentUnfitError, ServerError
from mmdeploy.triton.server import Server
from mmdeploy.triton.stubs import Stubs

PROBE_EVERY_S = 10.0
#: Restarts are counted in this time.
WINDOW_S = 600.0
_LONGEST_WAIT_S = 4.0


class Backoff:
    """Says how long to wait before a server is started again: not at all, then 1, 2, 4 … seconds."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow ``limit`` restarts within `WINDOW_S` by a clock in seconds."""
        self._limit, self._clock = limit, clock
        self._restarts: deque[float] = deque()

    def wait_s(self) -> float | None:
        """Count a restart and return how long to wait before it; None where there were too many."""
        now = self._clock()
        while self._restarts and now - self._restarts[0] > WINDOW_S:
            self._restarts.popleft()
        before = len(self._restarts)
        if before >= self._limit:
            return None
        self._restarts.append(now)
        return 0.0 if before == 0 else min(2.0 ** (before - 1), _LONGEST_WAIT_S)


class Tending:
    """Looks after one server, a look at a time."""

    def __init__(
        self,
        server: Server,
        *,
        restarts: int,
        require: Callable[[], None] = lambda: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take a server that was started here.

        Args:
            server: Under explicit model control.
            restarts: How often it may be started again within `WINDOW_S`.
            require: Raises unless what is served may still be; called before the server is started again.
            stopped: Whether to stop waiting.
        """
        assert server.pid is not None
        self._server, self._require, self._stopped = server, require, stopped
        self._backoff = Backoff(restarts)
        self._stubs = Stubs(server.pid)
        self._suspects: tuple[str, ...] = ()
        self._probed = time.monotonic()
        self._failed = False

    def look(self) -> Iterator[str]:
        """Look once, do what is needed, and tell it in lines as it is done.

        Raises:
            ServerError: If the server ended, or does not answer, and was started again too often.
        """
        try:
            yield from self._healed()
            self._failed = False
        except ServerError as error:
            # Another stub may have died while one was replaced; twice in a row it is the server.
            if self._failed or not self._server.is_running:
                yield from self._restarted(error)
            else:
                self._failed, self._probed = True, 0.0

    def _healed(self) -> Iterator[str]:
        self._server.require_running()
        # A model that is loaded again from changed files has its old stubs end, too: only what stays short is dead.
        suspects = self._stubs.short() if self._stubs.any_ended() else ()
        dead = tuple(model for model in suspects if model in self._suspects)
        self._suspects = suspects
        if not dead and (suspects or time.monotonic() - self._probed < PROBE_EVERY_S):
            return
        for model in self._server.heal(dead):
            what = "lost a process" if model in dead else "did not answer a probe"
            yield f"{model} {what} and was loaded again"
        self._stubs.count()
        self._suspects = ()
        self._probed = time.monotonic()

    def _restarted(self, error: ServerError) -> Iterator[str]:
        while True:
            wait_s = self._backoff.wait_s()
            if wait_s is None:
                raise error
            yield f"{_in_short(error)}; starting it again" + (f" in {wait_s:g} s" if wait_s else "")
            deadline = time.monotonic() + wait_s
            while time.monotonic() < deadline and not self._stopped():
                time.sleep(0.05)
            if self._stopped():
                return
            self._require()
            try:
                self._server.restart()
            except EnvironmentUnfitError as unfit:  # its port is taken: by somebody else, or still by itself
                error = ServerError(unfit.message, hint=unfit.hint)
            except ServerError as failed:
                error = failed
            else:
                break
        assert self._server.pid is not None
        self._stubs = Stubs(self._server.pid)
        self._suspects, self._probed, self._failed = (), time.monotonic(), False
        yield f"Triton {self._server.server_version} is ready again"


def _in_short(error: ServerError) -> str:
    """Return the first line of an error; of a server that ended no more than that: its log is kept."""
    first = error.message.splitlines()[0]
    return first.partition(":")[0] if first.startswith("Triton ended") else first
