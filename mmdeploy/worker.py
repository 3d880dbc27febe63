"""Run one step of a plan in a process of its own.

Everything that a step needs of the recipe (its Python code, the PyTorch model, calibration batches) is loaded
here and never in the process that schedules: a crash, a leak or a changed global ends with the step.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy import engines, export, quantize
from mmdeploy.artifact import Artifact, file_sha256
from mmdeploy.contracts import Encoding, Progress, StepContext
from mmdeploy.errors import StepError
from mmdeploy.plan import Step
from mmdeploy.store import Store, translated

if TYPE_CHECKING:
    from mmdeploy.recipe import Recipe

logger = logging.getLogger(__name__)

#: Samples that pass through the original model at once when its answers are recorded.
_ORIGINAL_BATCH = 64


@dataclass(frozen=True)
class Task:
    """One step with all it needs; it is pickled to the worker.

    Attributes:
        step: The step.
        recipe: The whole recipe: a component's inputs may come from other components.
        root: Folder that the recipe's paths are relative to.
        store: Root of the store.
        artifacts: Artifacts of the steps that it needs, by step id.
        threads: Threads that it may use.
    """

    step: Step
    recipe: Recipe
    root: Path
    store: Path
    artifacts: Mapping[str, Artifact]
    threads: int


def run_task(task: Task, progress: Progress) -> tuple[Artifact, bool]:
    """Run a step, or take its result from the store when another build has just made it.

    Returns:
        The artifact at its place in the store, and whether it was made here.

    Raises:
        MmdeployError: With the step's id in ``step`` where it is a `StepError`.
    """
    store, step = Store(task.store), task.step
    try:
        with store.claimed(step.key):
            found = store.get(step.key)
            if found is not None:
                return found, False
            with store.staging() as workdir, translated(store.root):
                artifact = _run(task, workdir, progress)
                return store.add(step.key, artifact, step.identity), True
    except StepError as error:
        error.step = error.step or step.id
        raise


def _run(task: Task, workdir: Path, progress: Progress) -> Artifact:
    step = task.step
    if step.kind == "outputs":
        return _record_original(task, workdir, progress)
    module: Any = {
        "export": export.METHODS, "quantize": quantize.METHODS,
        "engine": engines.METHODS, "reference": engines.METHODS,
    }[step.kind][step.method]  # fmt: skip
    source = task.artifacts[step.needs[0]] if step.needs else _torch_artifact(task)
    with contextlib.ExitStack() as stack:
        context = _context(task, workdir, progress, stack)
        produced: Artifact = module.run(source, module.Options.model_validate(dict(step.options)), context)
    return produced


def _context(task: Task, workdir: Path, progress: Progress, stack: contextlib.ExitStack) -> StepContext:
    name, recipe = task.step.component, task.recipe
    engine = recipe.engine_of(name)
    calibration, batches = (
        _calibration(task, stack) if task.step.kind == "quantize" and recipe.data.calibration else (None, 0)
    )
    return StepContext(
        component=name,
        workdir=workdir,
        target=recipe.target,
        encoding=Encoding(engines.METHODS[engine.method].encoding(engine)),
        max_batch_size=recipe.components[name].serving.max_batch_size,
        seed=recipe.seed,
        threads=task.threads,
        examples=_Examples(task),
        calibration=calibration,
        calibration_batches=batches,
        progress=progress,
    )


def _torch_artifact(task: Task) -> Artifact:
    model, component = task.recipe.model, task.recipe.components[task.step.component]
    path = task.root / (model.weights or model.factory.partition(":")[0])
    return Artifact(
        format="torch",
        path=path,
        sha256=file_sha256(path) if path.is_file() else "",
        inputs=(),
        outputs=(),
        produced_by="recipe",
        metadata={
            "factory": model.factory,
            "root": str(task.root),
            "weights": str(model.weights) if model.weights else None,
            "module": component.module,
            "inputs": list(component.inputs),
            "outputs": list(component.outputs),
            "allow_pickle": model.allow_pickle,
        },
    )


class _Examples:
    """Makes feed dicts of a component from the declared specs, running what lies upstream in PyTorch."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._chain: torch_model.TorchChain | None = None

    def __call__(self, batch: int) -> dict[str, Array]:
        recipe, component = self._task.recipe, self._task.recipe.components[self._task.step.component]
        tensors = _random_inputs(recipe, batch)
        if upstream(recipe.components, self._task.step.component):
            self._chain = self._chain or _torch_chain(self._task)
            tensors |= self._chain.run(tensors, self._task.step.component)
        return {name: tensors[wire.tensor] for name, wire in component.inputs.items()}


def _random_inputs(recipe: Recipe, batch: int) -> dict[str, Array]:
    """Draw ensemble inputs: floats from N(0, 1), integers from their declared range or the type's own up to 255."""
    random = np.random.default_rng(recipe.seed)
    feeds: dict[str, Array] = {}
    for name, spec in recipe.inputs.items():
        dtype = np.dtype(NUMPY_BY_DTYPE[spec.dtype])
        shape = (batch, *(16 if size == -1 else size for size in spec.shape))
        low, high = spec.range or ((0, 1) if dtype.kind in "biu" else (None, None))
        if dtype.kind in "biu":
            if spec.range is None and dtype == np.uint8:
                high = 255
            feeds[name] = random.integers(int(low), int(high), shape, endpoint=True).astype(dtype)
        elif low is not None:
            feeds[name] = random.uniform(low, high, shape).astype(dtype)
        else:
            feeds[name] = random.standard_normal(shape).astype(dtype)
    return feeds


def _torch_chain(task: Task) -> torch_model.TorchChain:
    """Load the model, wired up to but without the step's component (whole for ``original/outputs``)."""
    recipe, model = task.recipe, task.recipe.model
    names = upstream(recipe.components, task.step.component) if task.step.component in recipe.components else None
    parts = [
        torch_model.Part(
            name,
            recipe.components[name].module,
            {key: wire.tensor for key, wire in recipe.components[name].inputs.items()},
            {key: wire.tensor for key, wire in recipe.components[name].outputs.items()},
        )
        for name in topological_order(recipe.components)
        if names is None or name in names
    ]
    weights = task.root / model.weights if model.weights else None
    module = torch_model.load_model(model.factory, root=task.root, weights=weights, allow_pickle=model.allow_pickle)
    return torch_model.TorchChain(module, parts)
