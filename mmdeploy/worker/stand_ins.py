"""The ``original/stand_ins`` step: what takes the place of the embeddings of an input that is missing.

Zeros, the mean of the embeddings that the PyTorch model computes of calibration samples, or a parameter of that model.
Candidate, reference and original are all given the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.errors import ModelError, did_you_mean
from mmdeploy.model import torch_model
from mmdeploy.planning.steps import samples_taken
from mmdeploy.recipe.modalities import Branch, branches, in_branches, optional_inputs
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.worker.examples import ensemble_examples
from mmdeploy.worker.feeds import sample_set, torch_chain
from mmdeploy.worker.modalities import Modalities

if TYPE_CHECKING:
    from mmdeploy.core.contracts import Progress
    from mmdeploy.recipe.missing import Missing
    from mmdeploy.worker.task import Task

#: Samples that pass through the branches at once.
_BATCH = 32
_FILE = "stand_ins.npz"


def record_stand_ins(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Compute the stand-in of each embedding of an optional input, and write them down."""
    recipe, inside = task.recipe, in_branches(task.recipe)
    chain = torch_chain(task, [name for name in topological_order(recipe.components) if name in inside])
    found: dict[str, Array] = {}
    with torch_model.torch_threads(task.threads):
        means = _means(task, chain, progress)
        for name, missing in optional_inputs(recipe).items():
            for tensor in branches(recipe)[name].embeddings:
                found[tensor] = _stand_in(name, tensor, missing, means, chain)
    path = workdir / _FILE
    np.savez(path, **found)
    return Artifact("stand_ins", path, file_sha256(path), (), (), "torch", {"tensors": sorted(found)})


def _stand_in(
    name: str, tensor: str, missing: Missing, means: Mapping[str, Array], chain: torch_model.TorchChain
) -> Array:
    like = means[tensor]
    if missing.strategy == "learned":
        return _learned(name, str(missing.parameter), tensor, like, chain)
    if missing.strategy == "mean":
        return like
    return np.zeros_like(like)


def _means(task: Task, chain: torch_model.TorchChain, progress: Progress) -> dict[str, Array]:
    """Return the mean of each embedding over the samples that hold its input: of calibration samples, or an example."""
    modalities, sums, counts = Modalities(task.recipe, {}), dict[str, Array](), dict[str, int]()
    kinds: dict[str, np.dtype[np.generic]] = {}
    embeddings = {tensor for branch in branches(task.recipe).values() for tensor in branch.embeddings}
    for feeds, done, total in _batches(task):
        for rows, absent in modalities.patterns(feeds):
            some = {key: array[rows] for key, array in feeds.items() if key not in absent}
            found = chain.run(some, without=modalities.skipped(absent))
            for tensor, array in ((tensor, found[tensor]) for tensor in embeddings & found.keys()):
                if tensor in sums and sums[tensor].shape != array.shape[1:]:
                    raise ModelError(
                        f"a stand-in for {tensor!r} has no size of its own: it is {list(sums[tensor].shape)} of one "
                        f"sample and {list(array.shape[1:])} of another",
                        hint="let the branch end in a tensor of one size, such as a pooled embedding",
                    )
                total_of = array.astype(np.float64).sum(axis=0)
                sums[tensor] = sums[tensor] + total_of if tensor in sums else total_of
                counts[tensor] = counts.get(tensor, 0) + len(array)
                kinds[tensor] = array.dtype
        progress(done, total, "samples through the encoders of optional inputs")
    for branch in branches(task.recipe).values():
        _require_seen(task, branch, counts)
    return {tensor: (total_of / counts[tensor]).astype(kinds[tensor]) for tensor, total_of in sums.items()}


def _require_seen(task: Task, branch: Branch, counts: Mapping[str, int]) -> None:
    if any(tensor not in counts for tensor in branch.embeddings):
        raise ModelError(
            f"inputs.{branch.input}.missing: no calibration sample holds {branch.input!r}, so there is no embedding "
            f"that something could stand in for ({task.recipe.data.calibration})",
            hint="give samples that have it; `detect` may take all of them for empty",
        )


def _batches(task: Task) -> Iterator[tuple[dict[str, Array], int, int]]:
    """Give what the means are taken over; without a need for means one example."""
    samples = sample_set(task, "calibration")
    wants_means = any(one.strategy == "mean" for one in optional_inputs(task.recipe).values())
    if samples is None or not wants_means:
        yield ensemble_examples(task.recipe, samples or sample_set(task, "evaluation"), 1), 1, 1
        return
    first = samples.first(samples_taken(task.step.options))
    done = 0
    for feeds in first.batches(_BATCH):
        done += len(next(iter(feeds.values())))
        yield feeds, done, first.count


def _learned(name: str, parameter: str, tensor: str, like: Array, chain: torch_model.TorchChain) -> Array:
    """Return a parameter of the model in the shape of an embedding.

    Raises:
        ModelError: If the model has no such parameter, or one of another shape.
    """
    place = f"inputs.{name}.missing.parameter"
    known = dict(chain.model.named_parameters()) | dict(chain.model.named_buffers())
    if parameter not in known:
        raise ModelError(f"{place}: the model has no parameter {parameter!r}", hint=did_you_mean(parameter, known))
    value: Array = known[parameter].detach().numpy()
    if value.size != like.size or [n for n in value.shape if n != 1] != [n for n in like.shape if n != 1]:
        raise ModelError(
            f"{place}: {parameter!r} is {list(value.shape)}, and what it stands in for, {tensor!r}, {list(like.shape)}",
            hint="a stand-in has the shape of one sample of the embedding",
        )
    return value.reshape(like.shape).astype(like.dtype)
