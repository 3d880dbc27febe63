"""Who runs the steps of a build: processes of this machine, or a cluster; and how many at once, on how many threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mmdeploy.building.scheduler import Workers
from mmdeploy.building.settings import Settings
from mmdeploy.building.turns import admitted
from mmdeploy.core.target import usable_cores, usable_threads
from mmdeploy.planning.kinds import KINDS, SAMPLES
from mmdeploy.planning.steps import Decision, Fingerprints, Step
from mmdeploy.worker.step_process import Finished
from mmdeploy.worker.task import Task

if TYPE_CHECKING:
    from mmdeploy.core.store import Store
    from mmdeploy.recipe.schema import Recipe


class _Runs(Protocol):
    def __len__(self) -> int: ...

    def start(self, task: Task) -> None: ...

    def foresee(self, steps: Iterable[Step]) -> None: ...

    def prepare(self, task: Task) -> None: ...

    def wait(self) -> Finished: ...


class Crew:
    """Runs the steps of one build."""

    def __init__(self, workers: _Runs, jobs: int, at_once: int | None) -> None:
        """Take who runs them.

        Args:
            workers: They run them.
            jobs: Steps that share the cores of a machine.
            at_once: Steps at once where each has a node's cores to itself; None where they share this machine.
        """
        self._workers, self._jobs, self._at_once = workers, jobs, at_once

    def __len__(self) -> int:
        return len(self._workers)

    def admitted(self, ready: list[Decision], running: Mapping[str, Decision]) -> list[Decision]:
        """Return what to start now; on a cluster a step that measures has a node to itself, whatever runs elsewhere."""
        if self._at_once is None:
            return admitted(ready, running, self._jobs)
        return ready[: max(0, self._at_once - len(running))]

    def threads(self, step: Step, beside: int) -> int:
        """Return the threads that a step may use: the same number wherever it runs, so that it gives the same.

        A set of samples is what the recipe's code gives, and all else waits for it: it takes the cores that are free.

        Args:
            step: The step.
            beside: Other steps that run then.
        """
        if step.exclusive:
            return usable_cores()
        jobs = beside + 1 if step.sort is SAMPLES and self._at_once is None else self._jobs
        return min(usable_threads(), max(1, usable_cores() // jobs))

    def foresee(self, steps: Iterable[Step]) -> None:
        """Take note of which steps are left to be started."""
        self._workers.foresee(steps)

    def prepare(self, task: Task, running: Mapping[str, Decision]) -> None:
        """Have a core that no step can use yet load the model for a step that waits for others, such as for samples.

        Args:
            task: The step, without what is still to be made.
            running: Those that run.
        """
        alone = any(one.step.exclusive for one in running.values())
        if self._at_once is None and not alone and len(running) < self._jobs:
            self._workers.prepare(task)

    def start(self, task: Task) -> None:
        """Start a step."""
        self._workers.start(task)

    def wait(self) -> Finished:
        """Wait until one of the running steps ends well; what it raised otherwise is raised here."""
        return self._workers.wait()


@contextlib.contextmanager
def crew_of(
    recipe: Recipe,
    settings: Settings,
    store: Store,
    fingerprints: Fingerprints,
    steps: Sequence[Step],
    *,
    logs: Path,
    progress: Callable[[str, int, int | None, str], None],
    notes: list[str],
) -> Iterator[Crew]:
    """Give who runs some steps; what still runs at the end is ended.

    Args:
        recipe: The recipe.
        settings: They say where, and how many at once.
        store: Of the build.
        fingerprints: What keys are made of.
        steps: Those that are left to do.
        logs: Folder for one log a step.
        progress: Called with step id, done, total, what.
        notes: Takes what is to be told of those who run them.

    Raises:
        UsageError: If the cluster needs a place to share results at.
        EnvironmentUnfitError: If it cannot be reached, or no node of it can run a step.
    """
    jobs = min(settings.jobs or usable_cores(), len(recipe.components) + 1)
    if settings.on is None or not steps:
        kinds = [kind for kind in KINDS.values() if any(one.sort is kind for one in steps)]
        with Workers(kinds, logs, progress) as workers:
            yield Crew(workers, jobs, None)
        return
    from mmdeploy.cluster.connection import LOCAL, connected
    from mmdeploy.cluster.workers import RayWorkers

    with connected(settings.on):
        own = settings.on == LOCAL
        with RayWorkers(recipe, store, fingerprints, logs, progress, own=own) as cluster:
            cluster.require(steps)
            yield Crew(cluster, jobs, settings.jobs or len(steps))
            notes.extend(cluster.notes())
