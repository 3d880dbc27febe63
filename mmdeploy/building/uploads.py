"""What a build takes from the place that machines share, and sends to it while its steps run.

The place is tried before any step runs. One that goes away later stops nothing: the build goes on with what this
machine has, and says at its end what was not sent; the next build sends it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from mmdeploy.core.errors import MmdeployError, StoreError
from mmdeploy.core.store import Store
from mmdeploy.planning.recipe_inputs import share_readings
from mmdeploy.planning.steps import Decision, Plan
from mmdeploy.recipe.schema import Recipe
from mmdeploy.record.observer import Observer

logger = logging.getLogger(__name__)

#: What the display calls it.
STEP = "store"
_THREADS = 4
_NAMED = 3


class Uploads:
    """The traffic of one build with the shared place; without one nothing is done."""

    def __init__(self, recipe: Recipe, store: Store, observer: Observer) -> None:
        """Take the recipe, the store with what it shares, and who watches."""
        self._recipe, self._store, self._observer = recipe, store, observer
        shared = store.shared
        self._sends = shared is not None and not shared.read_only
        self._wanted: dict[str, bool] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._sending: dict[str, Future[bool]] = {}
        self._refused = ""

    def fetch(self, decisions: Iterable[Decision]) -> None:
        """Take what is to be reused, and lies at the shared place only."""
        shared, store = self._store.shared, self._store
        keys = {one.step.key for one in decisions if one.reuse and not store.is_here(one.step.key)}
        if shared is None or not keys:
            return
        self._observer.step_started(STEP)
        store.fetch(sorted(keys))
        taken = [key for key in keys if store.is_here(key)]
        size = _size(sum(shared.taken.get(key, 0) for key in taken))
        self._observer.work_finished(STEP, f"{_results(len(taken))} taken from {shared} ({size})")

    def begin(self, *, work: bool) -> None:
        """Try the place, where anything is to be sent or steps are to run, and start to send.

        Raises:
            EnvironmentUnfitError: If a package or the credentials are missing.
            StoreError: If the place cannot be reached, or used as it is meant to be.
        """
        if self._store.shared is None or not (work or self._wanted):
            return
        self._store.shared.require()
        if self._sends:
            self._pool = ThreadPoolExecutor(_THREADS)
            for key, replace in self._wanted.items():
                self._send(key, replace=replace)

    def add(self, key: str, *, replace: bool = False) -> None:
        """Send an entry that is on this machine, unless it was sent before."""
        if not self._sends or not (replace or self._store.notes.is_old(key)) or key in self._wanted:
            return
        self._wanted[key] = replace
        if self._pool is not None:
            self._send(key, replace=replace)

    def finish(self, plan: Plan, *, interrupted: bool) -> Iterator[str]:
        """Wait until all is sent; say what was not.

        Args:
            plan: The steps; their results are sent under the keys that they have in the end, too.
            interrupted: Whether to send nothing more.
        """
        shared = self._store.shared
        if shared is None:
            return
        if self._pool is not None:
            for step in plan.steps:
                if self._store.is_here(step.key) and not interrupted:
                    self.add(step.key)
            self._pool.shutdown(wait=True, cancel_futures=interrupted)
            yield from self._told(str(shared))
        elif shared.away:
            yield f"{shared.away}. Nothing more was taken from there."

    def _send(self, key: str, *, replace: bool) -> None:
        assert self._pool is not None
        self._sending[key] = self._pool.submit(self._sent, key, replace=replace)

    def _sent(self, key: str, *, replace: bool) -> bool:
        """Send an entry; once the place has refused one, no other is tried."""
        if self._refused:
            raise StoreError(self._refused)
        try:
            return self._store.share(key, replace=replace)
        except MmdeployError as error:
            self._refused = error.message
            raise
        except Exception as error:
            logger.exception("entry %s was not sent", key[:12])
            self._refused = f"{type(error).__name__}: {error}"
            raise

    def _told(self, shared: str) -> Iterator[str]:
        left = [key for key, one in self._sending.items() if one.cancelled() or one.exception() is not None]
        sent = [key for key, one in self._sending.items() if key not in left and one.result()]
        if not left and self._sending:
            try:
                share_readings(self._recipe, self._store)
            except MmdeployError as error:
                yield f"Warning: what the recipe's callables read was not sent to {shared}: {error.message}."
        if sent:
            self._observer.step_started(STEP)
            self._observer.work_finished(STEP, f"{_results(len(sent))} sent to {shared}")
        if left:
            named = ", ".join(key[:12] for key in left[:_NAMED]) + (" …" if len(left) > _NAMED else "")
            why = self._refused or "the build was interrupted"
            yield f"Warning: {_results(len(left))} not sent to {shared} ({named}): {why}. The next build sends them."


def _results(count: int) -> str:
    return f"{count} step result{'s' if count != 1 else ''}"


def _size(bytes_: int) -> str:
    return f"{bytes_ / 2**20:.1f} MiB" if bytes_ >= 2**20 else f"{bytes_ / 2**10:.1f} KiB"
