"""A step on a node: what it needs is taken there, it runs in a process of its own, its result is sealed and sent.

The node's cache is a work folder like any other, in front of the place that machines share.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdeploy.cluster.shipping import at, keep_readings, readings_of, take_folder
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Progress
from mmdeploy.core.errors import EnvironmentUnfitError, StoreError
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.store import Store
from mmdeploy.model.reads import Reading
from mmdeploy.planning.recipe_inputs import UNREAD, RecipeInputs, take_inputs
from mmdeploy.planning.steps import digest
from mmdeploy.worker.task import Task

#: Names a node's work folder, in its own environment.
CACHE = "MMDEPLOY_CLUSTER_CACHE"
#: Bytes of a log that come back, from its end.
_LOG_BYTES = 64 * 1024


@dataclass(frozen=True)
class Job:
    """A step with what it needs to run anywhere.

    Attributes:
        task: The step; its artifacts lie where the build was started.
        shared: The place that machines share; None where the node sees the store of the build itself.
        folder: Key of the recipe's folder there.
        readings: What is known of what the recipe's callables read, by reference.
        variables: The environment variables that decide a result; None for those that are not set.
    """

    task: Task
    shared: SharedStore | None
    folder: str
    readings: Mapping[str, Reading]
    variables: Mapping[str, str | None]


@dataclass(frozen=True)
class Answer:
    """What came of a step.

    Attributes:
        kind: ``done``, ``error`` or ``bug``, as `mmdeploy.worker.step_process.tell` says it.
        content: What goes with it; of a step that is done the artifact, whether it was made, and its key.
        readings: What is known now of what the recipe's callables read.
        log: The end of its log.
    """

    kind: str
    content: tuple[Any, ...]
    readings: Mapping[str, Reading]
    log: bytes


def run(job: Job, number: int, messages: Any) -> Answer:
    """Run a step in this process, which ends with it.

    Args:
        job: The step.
        number: Of the attempt, for its messages.
        messages: Actor that they go to.
    """
    for name, value in job.variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    from mmdeploy.worker.step_process import redirect, tell

    messages.put.remote(number, ("at", socket.gethostname(), _node_id()))
    readings: dict[str, Reading] = {}
    ends: list[tuple[Any, ...]] = []

    def send(message: tuple[Any, ...]) -> None:
        if message[0] == "progress":
            messages.put.remote(number, message)
        else:
            ends.append(message)

    with tempfile.NamedTemporaryFile(prefix="mmdeploy-step-", suffix=".log") as log:
        redirect(Path(log.name))
        tell(job.task, send, lambda task, progress: _run_here(job, progress, readings))
        end = Path(log.name).read_bytes()[-_LOG_BYTES:]
    kind, *content = ends[-1]
    return Answer(kind, tuple(content), readings, end)


def cache_folder() -> Path:
    """Return this node's work folder: what `CACHE` names, or one in the user's cache, where nobody else writes."""
    named = os.environ.get(CACHE)
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named or Path(caches) / "mmdeploy" / "cluster")


def _run_here(job: Job, progress: Progress, readings: dict[str, Reading]) -> tuple[Any, ...]:
    from mmdeploy.worker.run_step import run_task
    from mmdeploy.worker.watched_inputs import known_identity

    task, shared = job.task, job.shared
    if shared is None:
        artifact, made = run_task(task, progress)
        return artifact, made, _key_of(artifact)
    cache = cache_folder()
    store = Store(cache / "store", shared)
    with store.in_use():
        recipe = at(task.recipe, take_folder(job.folder, shared, cache))
        keep_readings(recipe, store, job.readings)
        require_same(task, take_inputs(recipe, store))
        task = replace(task, recipe=recipe, store=store.root, artifacts=_taken(task, store))
        found = None if task.fresh else store.get(digest(known_identity(task, store)))
        artifact, made = (found, False) if found is not None else run_task(task, progress)
        store.share(_key_of(artifact), replace=task.fresh and made)
        readings |= readings_of(recipe, store)
        store.facts.save()
        return artifact, made, _key_of(artifact)


def require_same(task: Task, here: RecipeInputs) -> None:
    """Do nothing where this machine has all that the step's key was made of.

    Args:
        task: The step, as it was planned.
        here: What the recipe is made of on this machine.

    Raises:
        EnvironmentUnfitError: Naming what differs.
    """
    planned = task.inputs
    if planned is None:
        return
    pairs = ((planned.model, here.model), *((one, here.data.get(key, {})) for key, one in planned.data.items()))
    for wanted, found in pairs:
        for label, value in wanted.items():
            if label not in task.step.identity or value in (UNREAD, found.get(label)):
                continue
            raise EnvironmentUnfitError(
                f"{socket.gethostname()} is refused, since a result of it would not be that of its key: "
                f"{_difference(label, value, found.get(label))}",
                hint="install the same there; files beside the recipe travel with it, others must lie at the same path "
                "on every node",
            )


def _difference(label: str, wanted: str | Mapping[str, str], found: str | Mapping[str, str] | None) -> str:
    if isinstance(wanted, Mapping):
        there = found if isinstance(found, Mapping) else {}
        names = [name for name in sorted({*wanted, *there}) if wanted.get(name) != there.get(name)]
        return f"{label}: {', '.join(names[:4])}"
    return f"{label} is {found or 'not there'}, and {wanted} where the build was started"


def _taken(task: Task, store: Store) -> dict[str, Artifact]:
    keys = {step_id: _key_of(artifact) for step_id, artifact in task.artifacts.items()}
    store.fetch(keys.values())
    found = {step_id: store.get(key) for step_id, key in keys.items()}
    missing = [step_id for step_id, artifact in found.items() if artifact is None]
    if missing:
        raise StoreError(f"what {', '.join(missing)} made is not at {store.shared}", hint="build again")
    return {step_id: artifact for step_id, artifact in found.items() if artifact is not None}


def _key_of(artifact: Artifact) -> str:
    return artifact.path.parent.name


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
