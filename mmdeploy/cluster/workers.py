"""Run the steps of a plan side by side on a Ray cluster, each in a process of its own on a node that fits.

What a node makes is sealed there, sent to the place that machines share, and taken here, verified. A step whose process
or node is lost runs again, elsewhere where that is possible. Whatever ends a build, no task is left.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.cluster.demands import Demand, demand_of, fitting
from mmdeploy.cluster.known_nodes import KnownNodes, on_node
from mmdeploy.cluster.messages import Messages
from mmdeploy.cluster.nodes import wanted_of
from mmdeploy.cluster.remote import Answer, Job, run
from mmdeploy.cluster.shipping import keep_readings, readings_of, send_folder, variables_of
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import MmdeployError, StepError, StoreError, UsageError
from mmdeploy.core.store import Store
from mmdeploy.planning.steps import Fingerprints, Step
from mmdeploy.worker.step_process import Finished, WorkerBugError, log_of
from mmdeploy.worker.task import Task

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

logger = logging.getLogger(__name__)

#: Times that a step is started before it counts as what ends its processes.
_ATTEMPTS = 3
#: Seconds between two looks at what steps tell, and at whether their nodes are up.
_LOOK_S, _NODES_S = 0.3, 3.0
#: Seconds that tasks which are ended have for it.
_ENDING_S = 10.0
#: Set as they are here, or not at all: how many threads libraries use by themselves, which numbers may depend on.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class _Running:
    task: Task
    number: int
    started: float
    answer: Any
    demand: Demand
    at: tuple[str, str] = ("", "")  # host name and Ray's id of the node that runs it
    lost: list[tuple[str, str]] = field(default_factory=list)


class RayWorkers:
    """Runs tasks on the cluster that this process is connected to; a context manager that ends what still runs.

    Attributes:
        nodes: Those of the cluster.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        fingerprints: Fingerprints,
        logs: Path,
        progress: Callable[[str, int, int | None, str], None],
        *,
        own: bool,
    ) -> None:
        """Look at the cluster.

        Args:
            recipe: The recipe.
            store: Of the build, with what it shares.
            fingerprints: What the plan's keys are made of.
            logs: Folder for one log a step.
            progress: Called with step id, done, total, what.
            own: Whether the cluster was started for this build, on this machine.

        Raises:
            UsageError: If there are nodes on other machines, and no place to share results at.
        """
        self._recipe, self._store, self._logs, self._progress = recipe, store, logs, progress
        self._shared = None if own else store.shared
        self.nodes = KnownNodes(wanted_of(fingerprints), own=own)
        if self._shared is None and (others := self.nodes.elsewhere()):
            raise UsageError(
                f"the cluster has nodes on other machines ({', '.join(others)}): they need a place for results",
                hint="name one with --store, such as s3://bucket/prefix or a path on a shared disk",
            )
        if self._shared is not None and self._shared.read_only:
            raise UsageError("steps on a cluster send their results to --store, which is read only here")
        self._running: dict[str, _Running] = {}
        self._count, self._folder, self._there = 0, "", set[str]()
        self._looked = time.monotonic()
        self._messages: Any = None

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __len__(self) -> int:
        return len(self._running)

    def require(self, steps: Iterable[Step]) -> None:
        """Do nothing where each step has a node that can run it.

        Raises:
            EnvironmentUnfitError: If one has none.
        """
        nodes = self.nodes.alive()
        for step in steps:
            fitting(step, self._recipe.target, nodes, self.nodes.here)

    def notes(self) -> list[str]:
        """Say, for people, which nodes took no steps."""
        refused = sorted({(one.facts.name, one.refused) for one in self.nodes.alive() if one.refused})
        return [f"Node {name} took no steps: {why}." for name, why in refused]

    def foresee(self, steps: Iterable[Step]) -> None:
        """Take note of nothing: here each step loads the model."""

    def prepare(self, task: Task) -> None:
        """Load nothing ahead."""

    def start(self, task: Task) -> None:
        """Send a step, and what it needs, to the cluster.

        Raises:
            EnvironmentUnfitError: If no node can run it.
            StoreError: If what it needs cannot be sent.
        """
        self._send(task.artifacts.values())
        self._start(task, time.monotonic(), [])

    def wait(self) -> Finished:
        """Wait until one of the running steps ends well.

        Raises:
            MmdeployError: What a step raised; the step's log is named in it.
            WorkerBugError: When a step raised anything else.
        """
        import ray

        while True:
            by_answer = {running.answer: step_id for step_id, running in self._running.items()}
            ready, _ = ray.wait(list(by_answer), num_returns=1, timeout=_LOOK_S)
            self._listen()
            for answer in ready:
                running = self._running.pop(by_answer[answer])
                told = self._answer(running)
                if told is not None:
                    return self._finished(running, told)
            self._look()

    def stop(self) -> None:
        """End every running step now."""
        import ray

        answers = [running.answer for running in self._running.values()]
        for answer in answers:
            ray.cancel(answer, force=True)
        if answers:
            ray.wait(answers, num_returns=len(answers), timeout=_ENDING_S)
        self._running.clear()
        if self._messages is not None:
            ray.kill(self._messages)
            self._messages = None

    def _start(self, task: Task, started: float, lost: list[tuple[str, str]]) -> None:
        import ray

        if self._messages is None:
            head = {"node:__internal_head__": 0.001}
            self._messages = ray.remote(num_cpus=0, resources=head)(Messages).remote()
        nodes = self.nodes.alive()
        others = tuple(node for node in nodes if node.id not in {where for _, where in lost})
        try:
            demand = demand_of(task, others, self.nodes.here)
        except MmdeployError:
            demand = demand_of(task, nodes, self.nodes.here)
        self._count += 1
        answer = (
            ray.remote(max_calls=1, max_retries=0)(run)
            .options(
                name=task.step.id,
                num_cpus=demand.cores,
                num_gpus=demand.gpus,
                memory=demand.memory_bytes,
                label_selector=on_node(*(node.id for node in demand.nodes)),
            )
            .remote(self._job(task), self._count, self._messages)
        )
        self._running[task.step.id] = _Running(task, self._count, started, answer, demand, lost=lost)

    def _job(self, task: Task) -> Job:
        variables: Mapping[str, str | None] = {name: os.environ.get(name) for name in _THREADS}
        if self._shared is None:
            return Job(task, None, "", {}, variables)
        self._folder = self._folder or send_folder(self._recipe, self._store)
        known = readings_of(self._recipe, self._store)
        return Job(task, self._shared, self._folder, known, {**variables_of(self._recipe, self._store), **variables})

    def _send(self, artifacts: Iterable[Artifact]) -> None:
        """Send what steps need and the shared place may not have."""
        if self._shared is None:
            return
        for entry in [one.path.parent for one in artifacts if one.path.parent.name not in self._there]:
            self._shared.send(entry.name, entry)
            self._store.notes.renew(entry.name)
            self._there.add(entry.name)

    def _listen(self) -> None:
        import ray

        by_number = {running.number: (step_id, running) for step_id, running in self._running.items()}
        try:
            told = ray.get(self._messages.take.remote(), timeout=_ENDING_S)
        except ray.exceptions.RayError:
            return
        for number, (kind, *content) in told:
            if number not in by_number:
                continue
            step_id, running = by_number[number]
            if kind == "at":
                running.at = (content[0], content[1])
            else:
                self._progress(step_id, *content)

    def _answer(self, running: _Running) -> Answer | None:
        """Return what came of a step; None where it was lost, and was started again."""
        import ray

        try:
            answer: Answer = ray.get(running.answer)
        except ray.exceptions.RayTaskError as error:
            summary = str(error).strip().splitlines()[-1]
            log = self._log(running, str(error).encode())
            raise WorkerBugError(summary, step=running.task.step.id, log=log, trace=str(error)) from error
        except ray.exceptions.RayError as error:
            self._again(running, error)
            return None
        self._log(running, answer.log)
        return answer

    def _again(self, running: _Running, error: Exception) -> None:
        step_id, why = running.task.step.id, str(error).strip().splitlines()[0]
        lost = [*running.lost, running.at]
        logger.warning("step %s was lost on %s: %s", step_id, running.at[0] or "the cluster", why)
        if len(lost) < _ATTEMPTS:
            self._start(running.task, running.started, lost)
            return
        places = ", ".join(name or "an unknown node" for name, _ in lost)
        log = self._log(running, str(error).encode())
        raise StepError(
            f"step {step_id} was lost {len(lost)} times, on {places}: {why}",
            hint="its process or its node ended: for want of memory, or by what it runs; see Ray's logs there",
            step=step_id,
            log=str(log),
        )

    def _look(self) -> None:
        """Start again what waits for nodes that are gone."""
        import ray

        if time.monotonic() - self._looked < _NODES_S:
            return
        self._looked = time.monotonic()
        up = {node.id for node in self.nodes.alive()}
        for step_id, running in list(self._running.items()):
            if up.isdisjoint(node.id for node in running.demand.nodes):
                ray.cancel(running.answer, force=True)
                del self._running[step_id]
                self._again(running, RuntimeError("its node is gone"))

    def _finished(self, running: _Running, answer: Answer) -> Finished:
        step, log = running.task.step, log_of(self._logs, running.task.step.id)
        if answer.kind == "error":
            error: MmdeployError = answer.content[0]
            error.log, error.step = str(log), error.step or step.id
            raise error
        if answer.kind == "bug":
            summary, trace = answer.content
            raise WorkerBugError(summary, step=step.id, log=log, trace=trace)
        artifact, made, key = answer.content
        if self._shared is not None:
            keep_readings(self._recipe, self._store, answer.readings)
            artifact = self._taken(step, key, anew=made and running.task.fresh)
        return Finished(step.id, artifact, made, time.monotonic() - running.started)

    def _taken(self, step: Step, key: str, *, anew: bool) -> Artifact:
        assert self._shared is not None
        self._shared.look_again(key)
        if anew and self._store.is_here(key):
            with self._store.staging() as folder:
                if self._shared.take(key, folder):
                    made = Artifact.from_json((folder / "artifact.json").read_text(encoding="utf-8"), folder)
                    self._store.add(key, made, step.identity, replace=True)
        artifact = self._store.get(key)
        if artifact is None:
            raise StoreError(f"what {step.id} made is not at {self._shared}", hint="build again", step=step.id)
        self._there.add(key)
        return artifact

    def _log(self, running: _Running, text: bytes) -> Path:
        log = log_of(self._logs, running.task.step.id)
        with log.open("ab") as file:
            file.write(f"on {running.at[0] or 'the cluster'}\n".encode() + text)
        return log
