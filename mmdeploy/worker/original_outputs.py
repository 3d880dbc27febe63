"""The ``original/outputs`` step: what the PyTorch model answers on the evaluation data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy import gates
from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.contracts import Progress
from mmdeploy.core.errors import ModelError
from mmdeploy.core.labels import Labels
from mmdeploy.core.samples import Gathered
from mmdeploy.data.columns import Entry, save_column
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
    feeds, total, done = samples.feeds(), samples.count, 0
    chain = torch_chain(task, topological_order(recipe.components))
    gathered: dict[str, Gathered] = {}
    with torch_model.torch_threads(task.threads):
        for group in feeds.groups():
            shapes: dict[str, tuple[int, ...]] = {}
            for start in range(0, len(group), _ORIGINAL_BATCH):
                rows = group[start : start + _ORIGINAL_BATCH]
                for tensor, array in chain.run(feeds.take(rows)).items():
                    if tensor not in recipe.inputs:
                        _refuse_odd(tensor, shapes.setdefault(tensor, array.shape), array)
                        gathered.setdefault(tensor, Gathered(total)).put(rows, array)
                done += len(rows)
                progress(done, total, "samples through the PyTorch model")
    tensors = {name: found.column() for name, found in gathered.items()}
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


def _refuse_odd(tensor: str, first: tuple[int, ...], batch: Array) -> None:
    """Refuse a tensor whose shape differs from that of an earlier batch of samples that are alike."""
    if batch.shape[1:] != first[1:]:
        raise ModelError(
            f"the PyTorch model gives the tensor {tensor!r} as {list(first)} and as {list(batch.shape)} for "
            "batches of these sizes: what a sample gets depends on how many others are in its batch",
            hint="every output has one row a sample; of samples of one shape, each row has one shape",
        )


def _try_metrics(recipe: Recipe, tensors: Mapping[str, Array], labels: Labels) -> None:
    """Score the original by every accuracy gate's metric: said now, and not when everything is built and served.

    Raises:
        DataError: If labels or outputs are not what a metric takes.
        MetricError: If one cannot be loaded, or fails.
    """
    for gate in recipe.gates:
        if isinstance(gate, gates.accuracy.Options):
            gates.accuracy.opened(gate, tuple(recipe.outputs), recipe.root).scored(tensors, labels)


def _save(workdir: Path, tensors: Mapping[str, Array]) -> dict[str, Entry]:
    """Save columns under numbered names: a tensor's name may hold what a file name cannot."""
    return {
        name: save_column(workdir, f"tensor-{number}", column) for number, (name, column) in enumerate(tensors.items())
    }
