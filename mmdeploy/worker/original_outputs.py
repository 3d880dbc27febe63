"""The ``original/outputs`` step: what the PyTorch model answers on the evaluation data."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdeploy import gates
from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.contracts import Progress, method_of
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels, written
from mmdeploy.data import samples as data
from mmdeploy.model import torch_model
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.worker.feeds import ensemble_inputs, torch_chain
from mmdeploy.worker.task import Task

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: Samples that pass through the original model at once when its answers are recorded.
_ORIGINAL_BATCH = 64


def record_original(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Write down what the PyTorch model answers on the evaluation data: one ``.npy`` an array, and an index."""
    recipe = task.recipe
    assert recipe.data.evaluation is not None
    specs, ranges = ensemble_inputs(recipe)
    feeds, labels = data.load_evaluation(recipe.data.evaluation, root=recipe.root, specs=specs, ranges=ranges)
    if labels is None:
        _refuse_unlabelled(recipe)
    chain = torch_chain(task, topological_order(recipe.components))
    total = len(next(iter(feeds.values())))
    parts: dict[str, list[Array]] = {}
    with torch_model.torch_threads(task.threads):
        for start in range(0, total, _ORIGINAL_BATCH):
            batch = {name: array[start : start + _ORIGINAL_BATCH] for name, array in feeds.items()}
            for tensor, array in chain.run(batch).items():
                if tensor not in recipe.inputs:
                    parts.setdefault(tensor, []).append(array)
            progress(min(total, start + _ORIGINAL_BATCH), total, "samples through the PyTorch model")
    tensors = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if labels is not None:
        _try_metrics(recipe, tensors, labels)
    index = {
        "feeds": _save(workdir, "feeds", feeds),
        "labels": None if labels is None else _save_labels(workdir, labels),
        "tensors": _save(workdir, "tensors", tensors),
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
        if gates.METHODS.of(gate).NEEDS_LABELS:
            raise DataError(
                f"the {method_of(gate)} gate needs labels, but {recipe.data.evaluation} gives none",
                hint="yield (feed, label) for each sample, or take the gate out of the recipe",
            )


def _try_metrics(recipe: Recipe, tensors: Mapping[str, Array], labels: Labels) -> None:
    """Score the original by every accuracy gate's metric, for the same reason.

    Raises:
        DataError: If labels or outputs are not what a metric takes.
        MetricError: If one cannot be loaded, or fails.
    """
    for gate in recipe.gates:
        if isinstance(gate, gates.accuracy.Options):
            gates.accuracy.opened(gate, tuple(recipe.outputs), recipe.root).scored(tensors, labels)


def _save_labels(workdir: Path, labels: Labels) -> Any:
    """Save labels in numbered files; the result says what each is."""
    numbers = itertools.count()

    def save(array: Array) -> str:
        name = f"labels-{next(numbers)}.npy"
        np.save(workdir / name, array, allow_pickle=False)
        return name

    return written(labels, save)


def _save(workdir: Path, group: str, arrays: Mapping[str, Array]) -> dict[str, str]:
    """Save arrays under numbered names: a tensor's name may hold what a file name cannot."""
    files = {}
    for number, (name, array) in enumerate(arrays.items()):
        files[name] = f"{group}-{number}.npy"
        np.save(workdir / files[name], array, allow_pickle=False)
    return files
