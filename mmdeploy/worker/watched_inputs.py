"""What a step's process learns of the recipe: what its code reads, and whether any of it changed meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmdeploy.core.errors import StepError
from mmdeploy.core.store import Store
from mmdeploy.model import held_model
from mmdeploy.model.adapter_files import files_of_adapter
from mmdeploy.model.log_of_reads import readings
from mmdeploy.model.reads import Readings
from mmdeploy.model.watching import watched
from mmdeploy.model.weight_files import files_of
from mmdeploy.planning.recipe_inputs import changed_inputs, codes_of, completed, digest_of, source_of, take_inputs
from mmdeploy.worker.task import Task


@contextlib.contextmanager
def watched_recipe(task: Task, logs: Path) -> Iterator[None]:
    """Watch what the recipe's code reads in this process; the log goes to a folder."""
    store, recipe = Store(task.store), task.recipe
    codes = codes_of(recipe, store.facts).values()
    variables = (os.environ.get(name, "") for code in codes for name in code.variables)
    hints = {path for code in codes for path in code.paths} | {value for value in variables if "/" in value}
    ignored = [store.root, store.root.parent / "runs"]
    if recipe.model.weights is not None:
        files = files_of(recipe.root / recipe.model.weights)
        ignored.extend(Path(os.path.abspath(file)) for file in files)  # noqa: PTH100 - not through links
    for folder in recipe.model.adapters.values():
        ignored.extend(Path(os.path.abspath(file)) for file in files_of_adapter(recipe.root / folder))  # noqa: PTH100
    log = logs / f"{os.getpid()}.reads"
    if (known := held_model.held()) is not None:
        log.write_bytes(known.reads)
    with watched(recipe.root.resolve(), log, ignored=tuple(ignored), hints=tuple(sorted(hints))):
        yield


def known_identity(task: Task, store: Store) -> dict[str, str]:
    """Return the identity of the task's step with all that is known by now of what its code reads."""
    return completed(task.step.identity, take_inputs(task.recipe, store))


def learned_identity(task: Task, logs: Path, store: Store) -> dict[str, str]:
    """Keep what the step's code was seen to read, and return the step's identity with that.

    Raises:
        StepError: If something that decides the result changed while the step was running.
    """
    recipe, root = task.recipe, task.recipe.root.resolve()
    codes = codes_of(recipe, store.facts)
    for reference, reading in readings(logs, codes, store, root).items():
        source = digest_of(source_of(codes[reference], store.facts))
        Readings(store, root).keep(reference, source, reading, whole=reference == recipe.model.factory)
    inputs = take_inputs(recipe, store)
    changed = changed_inputs(task.step.identity, task.inputs or inputs, inputs)
    if changed:
        raise StepError(
            f"{changed} while {task.step.id} was running: which of its contents was used is not known",
            hint="build again",
        )
    return completed(task.step.identity, inputs)
