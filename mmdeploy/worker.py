"""Run one step of a plan in a process of its own.

Everything that a step needs of the recipe (its Python code, the PyTorch model, calibration batches) is loaded
here and never in the process that schedules: a crash, a leak or a changed global ends with the step.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdeploy import data, engines, export, gates, quantize, torch_model
from mmdeploy.artifact import NUMPY_BY_DTYPE, Artifact, TensorSpec, file_sha256
from mmdeploy.contracts import Array, Progress, StepContext, method_of
from mmdeploy.errors import DataError, ExportError, StepError
from mmdeploy.planner import Step, shipped_graph
from mmdeploy.sessions import open_session
from mmdeploy.store import Store, translated
from mmdeploy.wiring import topological_order, upstream

if TYPE_CHECKING:
    from mmdeploy.recipe import Recipe, Wire

logger = logging.getLogger(__name__)

#: Samples that pass through the original model at once when its answers are recorded.
_ORIGINAL_BATCH = 64
#: Size of a dynamic axis in example inputs.
_DYNAMIC_SIZE = 16
#: Samples a calibration batch where the pass has no ``batch_size``.
_CALIBRATION_BATCH = 16
#: Calibration batches kept for the next pass over them, so that they are made once; what is beyond is made again.
_KEPT_BYTES = 64 * 2**20
_METHODS: Mapping[str, Mapping[str, Any]] = {
    "export": export.METHODS,
    "quantize": quantize.METHODS,
    "engine": engines.METHODS,
    "reference": engines.METHODS,
}


@dataclass(frozen=True)
class Task:
    """One step with all it needs; it is pickled to the worker.

    Attributes:
        step: The step.
        recipe: The whole recipe: a component's inputs may come from other components.
        store: Root of the store.
        artifacts: Artifacts of the steps that it needs, by step id.
        threads: Threads that it may use.
    """

    step: Step
    recipe: Recipe
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
    module = _METHODS[step.kind][step.method]
    source = task.artifacts[step.needs[0]] if step.needs else _torch_artifact(task)
    options = module.Options.model_validate_json(json.dumps(dict(step.options)))
    produced: Artifact = module.run(source, options, _context(task, workdir, progress))
    if step.kind == "export":
        _check_declared(task, source, produced)
    return produced


def _context(task: Task, workdir: Path, progress: Progress) -> StepContext:
    name, recipe = task.step.component, task.recipe
    engine = recipe.engine_options(name)
    calibration, batches = _calibration(task) if task.step.kind == "quantize" else (None, 0)
    return StepContext(
        component=name,
        workdir=workdir,
        target=recipe.target,
        encoding=engines.METHODS[method_of(engine)].encoding(engine),
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
    path = task.recipe.root / (model.weights or model.factory.partition(":")[0])
    return Artifact(
        format="torch",
        path=path,
        sha256=file_sha256(path) if path.is_file() else "",
        inputs=_declared(task.recipe, component.inputs),
        outputs=_declared(task.recipe, component.outputs),
        produced_by="recipe",
        metadata={
            "factory": model.factory,
            "root": str(task.recipe.root),
            "weights": str(model.weights) if model.weights else None,
            "module": component.module,
            "inputs": list(component.inputs),
            "outputs": list(component.outputs),
            "allow_pickle": model.allow_pickle,
        },
    )


def _declared(recipe: Recipe, wires: Mapping[str, Wire]) -> tuple[TensorSpec, ...]:
    """Return the specs that the recipe declares: at the wire, or at the ensemble's input that it leads to."""
    specs = []
    for name, wire in wires.items():
        source = recipe.inputs.get(wire.tensor)
        dtype, shape = wire.dtype or (source and source.dtype), wire.shape or (source and source.shape)
        if dtype and shape:
            specs.append(TensorSpec(name, dtype, tuple(shape)))
    return tuple(specs)


def _check_declared(task: Task, source: Artifact, graph: Artifact) -> None:
    """Compare what the recipe declares with what the exported graph really takes and gives.

    Raises:
        ExportError: Naming the first tensor that differs.
    """
    for side, declared, found in (("input", source.inputs, graph.inputs), ("output", source.outputs, graph.outputs)):
        real = {spec.name: spec for spec in found}
        for spec in declared:
            here = real[spec.name]
            sizes = zip(spec.shape, here.shape, strict=False)
            same_shape = len(spec.shape) == len(here.shape) and all(-1 in pair or pair[0] == pair[1] for pair in sizes)
            if spec.dtype != here.dtype or not same_shape:
                raise ExportError(
                    f"{task.step.component}: {side} {spec.name!r} is {here.dtype} {list(here.shape)}, "
                    f"the recipe declares {spec.dtype} {list(spec.shape)}",
                    hint="correct the dtype or shape in the recipe; the batch dimension is left out",
                )


class _Examples:
    """Makes feed dicts of a component from the declared specs, running what lies upstream in PyTorch."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._chain: torch_model.TorchChain | None = None

    def __call__(self, batch: int) -> dict[str, Array]:
        recipe, component = self._task.recipe, self._task.recipe.components[self._task.step.component]
        tensors = _random_inputs(recipe, batch)
        before = upstream(recipe.components, self._task.step.component)
        if before:
            self._chain = self._chain or _torch_chain(self._task, before)
            tensors |= self._chain.run(tensors)
        return {name: tensors[wire.tensor] for name, wire in component.inputs.items()}


def _random_inputs(recipe: Recipe, batch: int) -> dict[str, Array]:
    """Draw ensemble inputs: integers and bounded floats evenly from their range, other floats from N(0, 1).

    Integers without a declared range are 0 to 255 (UINT8) or 0 and 1: anything larger may be no valid index.
    """
    random = np.random.default_rng(recipe.seed)
    feeds: dict[str, Array] = {}
    for name, spec in recipe.inputs.items():
        dtype = np.dtype(NUMPY_BY_DTYPE[spec.dtype])
        shape = (batch, *(_DYNAMIC_SIZE if size == -1 else size for size in spec.shape))
        if dtype.kind in "biu":
            low, high = spec.range or (0, 255 if dtype == np.uint8 else 1)
            feeds[name] = random.integers(int(low), int(high), shape, endpoint=True).astype(dtype)
        elif spec.range is not None:
            feeds[name] = random.uniform(*spec.range, shape).astype(dtype)
        else:
            feeds[name] = random.standard_normal(shape).astype(dtype)
    return feeds


def _torch_chain(task: Task, components: Sequence[str]) -> torch_model.TorchChain:
    """Load the model, wired up to the named components."""
    recipe, model = task.recipe, task.recipe.model
    parts = [
        torch_model.WiredModule(name, recipe.components[name].module, *_wires(recipe, name)) for name in components
    ]
    module = torch_model.load_model(
        model.factory, root=recipe.root, weights=model.weights, allow_pickle=model.allow_pickle
    )
    return torch_model.TorchChain(module, parts)


def _wires(recipe: Recipe, name: str) -> tuple[dict[str, str], dict[str, str]]:
    component = recipe.components[name]
    return (
        {key: wire.tensor for key, wire in component.inputs.items()},
        {key: wire.tensor for key, wire in component.outputs.items()},
    )


class _CalibrationFeeds:
    """Calibration batches of a component: along the chain, through the graphs that really ship.

    They are read several times; the first of them, up to `_KEPT_BYTES`, are held in memory.
    """

    def __init__(self, task: Task, batches: data.Batches, count: int) -> None:
        self._task, self._batches, self._count = task, batches, count
        self._kept: list[dict[str, Array]] = []
        self._room_bytes = _KEPT_BYTES
        self._sessions: dict[str, Any] = {}
        for name in upstream(task.recipe.components, task.step.component):
            graph = task.artifacts[shipped_graph(task.recipe, name)]
            self._sessions[name] = open_session(graph.path, {"intra_op_thread_count": str(task.threads)})

    def __call__(self) -> Iterator[dict[str, Array]]:
        yield from self._kept
        kept = len(self._kept)
        if kept == self._count:
            return
        for index, feeds in enumerate(itertools.islice(self._batches, kept, None), kept):
            batch = self._along_the_chain(feeds)
            self._room_bytes -= sum(array.nbytes for array in batch.values())
            if self._room_bytes >= 0 and index == len(self._kept):
                self._kept.append(batch)
            yield batch

    def _along_the_chain(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        component = self._task.recipe.components[self._task.step.component]
        tensors: dict[str, Array] = dict(feeds)
        for name, session in self._sessions.items():
            inputs, outputs = _wires(self._task.recipe, name)
            answers = session.run(list(outputs), {key: tensors[tensor] for key, tensor in inputs.items()})
            tensors |= dict(zip(outputs.values(), answers, strict=True))
        return {key: tensors[wire.tensor] for key, wire in component.inputs.items()}


def _calibration(task: Task) -> tuple[_CalibrationFeeds | None, int]:
    """Check the calibration data as a whole, then open it in batches of the component's own inputs."""
    recipe, options = task.recipe, task.step.options
    if recipe.data.calibration is None:
        return None, 0
    specs, ranges = _ensemble_inputs(recipe)
    limit = options.get("samples")
    summary = data.check_calibration(recipe.data.calibration, root=recipe.root, specs=specs, ranges=ranges, limit=limit)
    batches = data.batches(
        recipe.data.calibration,
        root=recipe.root,
        specs=specs,
        batch_size=int(options.get("batch_size", _CALIBRATION_BATCH)),
        ranges=ranges,
        limit=limit,
    )
    count = batches.count(summary.samples)
    return _CalibrationFeeds(task, batches, count), count


def _ensemble_inputs(recipe: Recipe) -> tuple[tuple[TensorSpec, ...], dict[str, tuple[float, float]]]:
    specs = tuple(TensorSpec(name, spec.dtype, spec.shape) for name, spec in recipe.inputs.items())
    return specs, {name: spec.range for name, spec in recipe.inputs.items() if spec.range is not None}


def _record_original(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Write down what the PyTorch model answers on the evaluation data: one ``.npy`` an array, and an index."""
    recipe = task.recipe
    assert recipe.data.evaluation is not None
    specs, ranges = _ensemble_inputs(recipe)
    feeds, labels = data.load_evaluation(recipe.data.evaluation, root=recipe.root, specs=specs, ranges=ranges)
    if labels is None:
        _refuse_unlabelled(recipe)
    chain = _torch_chain(task, topological_order(recipe.components))
    total = len(next(iter(feeds.values())))
    parts: dict[str, list[Array]] = {}
    with torch_model.torch_threads(task.threads):
        for start in range(0, total, _ORIGINAL_BATCH):
            batch = {name: array[start : start + _ORIGINAL_BATCH] for name, array in feeds.items()}
            for tensor, array in chain.run(batch).items():
                if tensor not in recipe.inputs:
                    parts.setdefault(tensor, []).append(array)
            progress(min(total, start + _ORIGINAL_BATCH), total, "samples through the PyTorch model")
    index = {
        "feeds": _save(workdir, "feeds", feeds),
        "labels": _save(workdir, "labels", {} if labels is None else {"label": labels}),
        "tensors": _save(workdir, "tensors", {name: np.concatenate(arrays) for name, arrays in parts.items()}),
    }
    path = workdir / "index.json"
    path.write_text(json.dumps(index, indent=1))
    return Artifact(
        format="reference",
        path=path,
        sha256=file_sha256(path),
        inputs=specs,
        outputs=(),
        produced_by="torch",
        metadata={"samples": total, "labelled": labels is not None},
    )


def _refuse_unlabelled(recipe: Recipe) -> None:
    """Say it now and not when everything has been built and is served."""
    for gate in recipe.gates:
        if getattr(gates.METHODS[method_of(gate)], "NEEDS_LABELS", False):
            raise DataError(
                f"the {method_of(gate)} gate needs labels, but {recipe.data.evaluation} gives none",
                hint="yield (feed, label) for each sample, or take the gate out of the recipe",
            )


def _save(workdir: Path, group: str, arrays: Mapping[str, Array]) -> dict[str, str]:
    """Save arrays under numbered names: a tensor's name may hold what a file name cannot."""
    files = {}
    for number, (name, array) in enumerate(arrays.items()):
        files[name] = f"{group}-{number}.npy"
        np.save(workdir / files[name], array, allow_pickle=False)
    return files
