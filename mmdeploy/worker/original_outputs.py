"""The ``original/outputs`` step: what the PyTorch model answers on the evaluation data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdeploy.core.artifact import Array, Artifact
from mmdeploy.core.contracts import Progress
from mmdeploy.core.errors import DataError, ModelError
from mmdeploy.core.labels import Labels
from mmdeploy.core.samples import Gathered, Samples, column_of
from mmdeploy.data.columns import Entry, save_column
from mmdeploy.gates import accuracy
from mmdeploy.model import torch_model
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.scoring import lengths
from mmdeploy.worker.answer_index import indexed
from mmdeploy.worker.early_answers import answered_early
from mmdeploy.worker.feeds import sample_set, torch_chain
from mmdeploy.worker.media import postprocessed, preparation
from mmdeploy.worker.modalities import Modalities
from mmdeploy.worker.task import Task

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: In the index, where the answers for subsets of the modalities stand by subset; no tensor has this name.
SUBSETS = ""
#: Samples that pass through the original model at once when its answers are recorded.
_ORIGINAL_BATCH = 64
#: Beside the index, where the recipe has a cascade: what is answered early, and by which samples.
EARLY = "early.json"
#: In the bounds, likewise.
EARLY_AT_BOUNDS = "early"
#: Beside the index, where samples were made: their feeds and what the model makes of them.
BOUNDS = "bounds.json"


def record_original(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Write down what the PyTorch model answers on the evaluation data: one ``.npy`` an array, and an index.

    The answers where a subset of the modalities is missing stand in the index under the subset.
    """
    recipe = task.recipe
    samples = sample_set(task, "evaluation")
    assert samples is not None
    feeds = samples.feeds()
    run = _Original(torch_chain(task, topological_order(recipe.components)), Modalities.of(task), progress)
    whole = np.flatnonzero(run.modalities.held(feeds).all(axis=1))
    made = _made_at_bounds(task, feeds, whole) if len(whole) else None
    with torch_model.torch_threads(task.threads):
        _require_something(run.modalities, feeds, samples.reference)
        tensors = postprocessed(recipe, run.answers(feeds, "samples through the PyTorch model"))
        if samples.labels is not None:
            _try_metrics(recipe, tensors, samples.labels)
        index: dict[str, Any] = dict(_save(workdir, "tensor", tensors))
        if early := answered_early(recipe, tensors):
            (workdir / EARLY).write_text(json.dumps(_save(workdir, "early", early), indent=1), encoding="utf-8")
        if run.modalities.subsets:
            index[SUBSETS] = {}
        for number, subset in enumerate(run.modalities.subsets):
            left = run.modalities.without(feeds, subset.without)
            found = postprocessed(recipe, run.answers(left, f"samples {subset.label}"))
            index[SUBSETS][subset.label] = _save(workdir, f"subset-{number}", found)
        if made is not None:
            sent, read = made
            at_bounds = postprocessed(recipe, run.answers(read, "samples at bounds of sizes"))
            early = answered_early(recipe, at_bounds)
            at_bounds |= {name: read[name] for name in read if name not in sent}
            bounds = {"feeds": _save(workdir, "bound", sent), "original": _save(workdir, "bound-tensor", at_bounds)}
            bounds |= {EARLY_AT_BOUNDS: _save(workdir, "bound-early", early)} if early else {}
            (workdir / BOUNDS).write_text(json.dumps(bounds, indent=1), encoding="utf-8")
    return indexed(index, workdir, task, "evaluation", count=samples.count, by="torch")


def _made_at_bounds(task: Task, feeds: Samples, whole: npt.NDArray[np.intp]) -> tuple[Samples, Samples] | None:
    """Return samples at bounds of sizes that no sample has, as clients send them and as the model reads them.

    They are made of the samples that are whole. None where there are none, or where steps of the recipe make what is
    read of something else.
    """
    recipe, sizes = task.recipe, {spec.name: spec.sizes for spec in task.recipe.input_specs}
    if recipe.written.preprocess:
        return None
    prepare = preparation(recipe)
    if prepare is None:
        made = lengths.at_bounds(feeds.select(whole), sizes)
        return None if made is None else (made, made)
    sent = sample_set(task, "evaluation", as_sent=True)
    made = None if sent is None else lengths.at_bounds(sent.feeds().select(whole), sizes)
    if made is None:
        return None
    rows = [prepare(dict(zip(made, row, strict=True))) for row in zip(*made.values(), strict=True)]
    return made, Samples({spec.name: column_of([row[spec.name] for row in rows]) for spec in prepare.sources})


class _Original:
    """The PyTorch model, run on samples that may lack inputs."""

    def __init__(self, chain: torch_model.TorchChain, modalities: Modalities, progress: Progress) -> None:
        self._chain, self.modalities, self._progress = chain, modalities, progress

    def answers(self, feeds: Samples, what: str) -> dict[str, Array]:
        """Return what the model writes: columns by ensemble tensor, without the samples that nothing is left of."""
        gathered: dict[str, Gathered] = {}
        answerable, done = self.modalities.answerable(feeds), 0
        for group in feeds.groups():
            shapes: dict[str, tuple[int, ...]] = {}
            left = group[answerable[group]]
            for start in range(0, len(left), _ORIGINAL_BATCH):
                rows = left[start : start + _ORIGINAL_BATCH]
                for tensor, array in self.modalities.run(self._chain, feeds.take(rows)).items():
                    _refuse_odd(tensor, shapes.setdefault(tensor, array.shape), array)
                    gathered.setdefault(tensor, Gathered(feeds.count)).put(rows, array)
                done += len(rows)
                self._progress(done, feeds.count, what)
        return {name: found.column() for name, found in gathered.items()}


def _require_something(modalities: Modalities, feeds: Samples, reference: str) -> None:
    """Refuse samples that hold none of the inputs: the server refuses them too."""
    nothing = np.flatnonzero(~modalities.answerable(feeds))
    if len(nothing):
        raise DataError(
            f"{reference}: sample {int(nothing[0])} holds none of the inputs, so there is nothing to judge",
            hint="give each sample at least one input; `detect` may take what it has for empty",
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
        if isinstance(gate, accuracy.Options):
            accuracy.opened(gate, tuple(recipe.outputs), recipe.root).scored(tensors, labels)


def _save(workdir: Path, stem: str, tensors: Mapping[str, Array]) -> dict[str, Entry]:
    """Save columns under numbered names: a tensor's name may hold what a file name cannot."""
    return {
        name: save_column(workdir, f"{stem}-{number}", column) for number, (name, column) in enumerate(tensors.items())
    }
