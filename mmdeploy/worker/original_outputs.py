"""The ``original/outputs`` step: what the PyTorch model answers on the evaluation data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy import gates
from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.contracts import Progress
from mmdeploy.core.errors import ModelError
from mmdeploy.core.labels import Labels
from mmdeploy.model import torch_model
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.worker.feeds import sample_set, torch_chain
from mmdeploy.worker.task import Task

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: Samples that pass through the original model at once when its answers are recorded.
_ORIGINAL_BATCH = 64


def record_original(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Write down what the PyTorch model answers on the evaluation data: one ``.npy`` an array, and an index."""
    recipe = task.recipe
    samples = sample_set(task, "evaluation")
    assert samples is not None
    feeds, total = samples.feeds(), samples.count
    chain = torch_chain(task, topological_order(recipe.components))
    parts: dict[str, list[Array]] = {}
    with torch_model.torch_threads(task.threads):
        for start in range(0, total, _ORIGINAL_BATCH):
            batch = {name: array[start : start + _ORIGINAL_BATCH] for name, array in feeds.items()}
            for tensor, array in chain.run(batch).items():
                if tensor not in recipe.inputs:
                    parts.setdefault(tensor, []).append(array)
            progress(min(total, start + _ORIGINAL_BATCH), total, "samples through the PyTorch model")
    tensors = {name: _joined(name, arrays) for name, arrays in parts.items()}
    if samples.labels is not None:
        _try_metrics(recipe, tensors, samples.labels)
    index = _save(workdir, tensors)
    path = workdir / "index.json"
    path.write_text(json.dumps(index, indent=1), encoding="utf-8")
    return Artifact(
        format="reference",
        path=path,
        sha256=file_sha256(path),
        inputs=task.artifacts[DATA_SETS["evaluation"]].inputs,
        outputs=(),
        produced_by="torch",
        metadata={"samples": total},
    )


def _joined(tensor: str, batches: list[Array]) -> Array:
    odd = next((one for one in batches if one.shape[1:] != batches[0].shape[1:]), None)
    if odd is not None:
        raise ModelError(
            f"the PyTorch model gives the tensor {tensor!r} as {list(batches[0].shape)} and as {list(odd.shape)} for "
            "batches of these sizes: what a sample gets depends on how many others are in its batch",
            hint="every output has one row a sample, of one shape",
        )
    return np.concatenate(batches)


def _try_metrics(recipe: Recipe, tensors: Mapping[str, Array], labels: Labels) -> None:
    """Score the original by every accuracy gate's metric: said now, and not when everything is built and served.

    Raises:
        DataError: If labels or outputs are not what a metric takes.
        MetricError: If one cannot be loaded, or fails.
    """
    for gate in recipe.gates:
        if isinstance(gate, gates.accuracy.Options):
            gates.accuracy.opened(gate, tuple(recipe.outputs), recipe.root).scored(tensors, labels)


def _save(workdir: Path, arrays: Mapping[str, Array]) -> dict[str, str]:
    """Save arrays under numbered names: a tensor's name may hold what a file name cannot."""
    files = {}
    for number, (name, array) in enumerate(arrays.items()):
        files[name] = f"tensor-{number}.npy"
        np.save(workdir / files[name], array, allow_pickle=False)
    return files
