"""Examples: small batches of a component's inputs, on which steps trace, compare, count and try what they make.

They are the recipe's own samples, calibration or else evaluation, passed through what lies upstream in PyTorch. Made-up
values stand in only where a recipe names neither: a mask of noise, or ids that no tokenizer gives, ask of a model what
nobody will.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.core import facts
from mmdeploy.core.artifact import NUMPY_BY_DTYPE, Array, Artifact, TensorSpec
from mmdeploy.core.errors import ModelError
from mmdeploy.core.sizes import Lengths
from mmdeploy.data.padding import padded
from mmdeploy.model.torch_model import torch_threads
from mmdeploy.planning.kinds import EXPORT
from mmdeploy.planning.steps import EXAMPLES, examples_from
from mmdeploy.recipe.modalities import presence_tensors
from mmdeploy.recipe.wiring import upstream
from mmdeploy.worker.feeds import sample_set, torch_chain
from mmdeploy.worker.lengths import (
    at_lengths,
    longer,
    measured,
    named_sizes,
    open_axes,
    tried,
    typical,
    unlike,
)
from mmdeploy.worker.upstream_answers import FILENAME, UpstreamAnswers

if TYPE_CHECKING:
    from mmdeploy.data.sample_sets import SampleSet
    from mmdeploy.model.torch_model import TorchChain
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.worker.task import Task

_EXAMPLE = "example.npz"
#: Size of an axis that varies, in made-up values.
_MADE_UP_SIZE = 16
#: Least size of an axis that varies, in a batch: torch.export takes a size of 1 as fixed.
_LEAST_SIZE = 2
#: Rows that upstream answers at once, where fewer are asked for: an export asks for that many, a few at a time.
_ROWS = 5


@dataclass(frozen=True)
class ExampleFile:
    """What the artifact of an export says of the example that it keeps.

    Attributes:
        example: Name of the ``.npz`` file beside the graph: one sample of each of the component's inputs.
    """

    example: str


def keep_example(artifact: Artifact, feed: Mapping[str, Array]) -> Artifact:
    """Write one sample beside a graph: what is served of the component is asked and warmed up with it.

    Args:
        artifact: The graph.
        feed: A batch of one.
    """
    path = artifact.path.with_name(_EXAMPLE)
    np.savez(path, **{str(number): array[0] for number, array in enumerate(feed.values())})
    return replace(artifact, metadata={**artifact.metadata, **facts.as_metadata(ExampleFile(_EXAMPLE))})


def kept_example(artifact: Artifact) -> dict[str, Array]:
    """Return the sample that lies beside a graph, by input, without a batch axis."""
    name = facts.read(ExampleFile, artifact).example
    with np.load(artifact.path.with_name(name), allow_pickle=False) as arrays:
        return {spec.name: arrays[str(number)] for number, spec in enumerate(artifact.inputs)}


class Examples:
    """Makes feed dicts of a component."""

    def __init__(self, task: Task) -> None:
        """Take the step; the set of samples and the model are opened when they are needed."""
        self._task = task
        self._chain: TorchChain | None = None
        self.answered = _kept_answers(task)

    def __call__(self, batch: int) -> dict[str, Array]:
        """Return a feed dict of the component with so many samples.

        Raises:
            ModelError: If what lies upstream cannot be run.
        """
        recipe, samples = self._task.recipe, self._samples()
        sent = ensemble_examples(recipe, samples, batch)
        rows = min(_ROWS, recipe.components[self._task.step.component].serving.max_batch_size or _ROWS)
        if 1 < batch < rows and self._is_new(sent):
            self._given(ensemble_examples(recipe, samples, rows))
        return self._given(sent)

    def at_lengths(self, batch: int) -> Iterator[tuple[Lengths, dict[str, Array]]]:
        """Give a feed dict at each of several lengths of the sizes that vary, and say which lengths; none without any.

        An axis without a name has the lengths of samples that differ there, a few of them, one sample at a time; it is
        named by its input.

        Raises:
            ModelError: If what lies upstream cannot be run at such a length.
        """
        recipe, samples = self._task.recipe, self._samples()
        for lengths in tried(recipe.source_specs, samples):
            yield lengths, self._given(ensemble_examples(recipe, samples, batch, lengths))
        for own, tensors in unlike(recipe.source_specs, samples):
            yield own, self._given(tensors)

    def computed_inputs(self) -> tuple[TensorSpec, ...]:
        """Return the specs of those of the component's inputs that upstream computes and that vary in size.

        A size that is as long as one that clients send, at every length that is tried, is that one.
        """
        recipe = self._task.recipe
        wires = recipe.components[self._task.step.component].inputs
        names = [name for name, wire in wires.items() if wire.tensor not in recipe.sources()]
        try:
            probes = [(lengths, self._given(tensors)) for lengths, tensors in self._probes()] if names else []
        except ModelError:  # of lengths that upstream cannot be asked at: its own export says so
            return ()
        every = all(size is not None for spec in recipe.source_specs for size in open_axes(spec))
        specs = (
            measured(name, wires[name].tensor, [(lengths, feed[name]) for lengths, feed in probes], recipe, every)
            for name in names
            if probes
        )
        return tuple(spec for spec in specs if spec is not None)

    def _probes(self) -> Iterator[tuple[Lengths, dict[str, Array]]]:
        """Give what clients send at lengths of named sizes, and of axes without a name at the sizes of samples."""
        recipe, samples = self._task.recipe, self._samples()
        for lengths in tried(recipe.source_specs, samples):
            yield lengths, ensemble_examples(recipe, samples, _LEAST_SIZE, lengths)
        if not any(size is None for spec in recipe.source_specs for size in open_axes(spec)):
            return
        if samples is None:
            yield {}, (made := ensemble_examples(recipe, None, _LEAST_SIZE))
            yield {}, longer(made, recipe.source_specs)
            return
        usual = _traceable(recipe, samples)
        least, most = (
            _of_one_size(recipe, samples, _LEAST_SIZE, largest=which, lengths=usual) for which in (False, True)
        )
        yield usual, most
        alike = all(least[name].shape == array.shape for name, array in most.items())
        yield usual, longer(most, recipe.source_specs) if alike else least

    def _given(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """Return what the component is given where clients send some tensors."""
        tensors = tensors | self._presence(len(next(iter(tensors.values()))))
        wired = self._task.recipe.components[self._task.step.component].inputs
        if any(wire.tensor not in tensors for wire in wired.values()):
            tensors = tensors | self._answers(tensors)
        return {name: tensors[wire.tensor] for name, wire in wired.items()}

    def _is_new(self, sent: dict[str, Array]) -> bool:
        """Say whether upstream must be run on what clients send."""
        tensors = sent | self._presence(len(next(iter(sent.values()))))
        wired = self._task.recipe.components[self._task.step.component].inputs
        return any(wire.tensor not in tensors for wire in wired.values()) and self.answered.find(tensors) is None

    def _answers(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """Run what lies upstream, unless it has answered a batch that begins with these samples."""
        found = self.answered.find(tensors)
        if found is not None:
            return found
        before = upstream(self._task.recipe.components, self._task.step.component)
        with torch_threads(self._task.threads):  # more would spin beside the steps that run at the same time
            self._chain = self._chain or torch_chain(self._task, before)
            answers = self._chain.run(tensors)
        self.answered.add(tensors, answers)
        return {name: array.copy() for name, array in answers.items()}

    def _presence(self, rows: int) -> dict[str, Array]:
        """Make presence tensors: all inputs of the first sample are there, and of each other one at most is missing."""
        names = presence_tensors(self._task.recipe)
        turns = np.arange(rows)[:, None] % (len(names) + 1)
        return {tensor: turns != number for number, tensor in enumerate(names.values(), start=1)}

    def _samples(self) -> SampleSet | None:
        key = examples_from(self._task.recipe.data)
        samples = None if key is None else sample_set(self._task, key)
        return None if samples is None else samples.first(EXAMPLES)


def _kept_answers(task: Task) -> UpstreamAnswers:
    """Return what upstream answered when the component was exported, as it is or as it was before its passes."""
    for name in (EXPORT.name, "original"):
        exported = task.artifacts.get(f"{task.step.component}/{name}")
        if exported is not None:
            return UpstreamAnswers.load(exported.path.with_name(FILENAME))
    return UpstreamAnswers()


def ensemble_examples(
    recipe: Recipe, samples: SampleSet | None, batch: int, lengths: Lengths | None = None
) -> dict[str, Array]:
    """Return a batch of what components read from outside.

    Args:
        recipe: Declares the inputs.
        samples: What the batch is made of, from the first, and again from the first where there are too few. None makes
            values up.
        batch: Number of samples. One alone has its own size on axes that vary; of several the smaller ones are padded
            to the largest in the set, as a client would; a size with a name has its typical length.
        lengths: Of the sizes that have a name, instead.
    """
    if samples is None:
        made = {
            name: _made_up(spec, recipe.sources()[name].range, batch, recipe.seed + index)
            for index, (name, spec) in enumerate(_inputs(recipe))
        }
        return {name: _resized(made[name], spec, lengths or {}) for name, spec in _inputs(recipe)}
    if lengths is None and batch > 1:
        lengths = _traceable(recipe, samples)
    if batch == 1 and not lengths:
        first = samples.batch(0, 1)
        return {name: np.array(first[name]) for name, _ in _inputs(recipe)}
    return _of_one_size(recipe, samples, batch, largest=True, lengths=lengths or {})


def _traceable(recipe: Recipe, samples: SampleSet) -> dict[str, int]:
    """Return typical lengths, none of them 1: torch.export takes that as fixed."""
    sizes = named_sizes(recipe.source_specs)
    usual = typical(recipe.source_specs, samples)
    return {name: max(length, sizes[name].nearest(_LEAST_SIZE)) for name, length in usual.items()}


def _resized(batch: Array, spec: TensorSpec, lengths: Lengths) -> Array:
    return np.stack([at_lengths(array, spec, lengths) for array in batch])


def _inputs(recipe: Recipe) -> Sequence[tuple[str, TensorSpec]]:
    return tuple((spec.name, spec) for spec in recipe.source_specs)


def _of_one_size(
    recipe: Recipe, samples: SampleSet, batch: int, *, largest: bool, lengths: Lengths
) -> dict[str, Array]:
    """Return a batch of samples, each padded to the largest size in the set, or cut to the smallest.

    Sizes that have a name are as long as asked.
    """
    chosen = [samples.batch(index, index + 1) for index in range(samples.count)]
    return {
        name: _batch(
            [at_lengths(one[name][0], spec, lengths) for one in chosen], spec, recipe.sources()[name].range, batch,
            largest=largest,
        )
        for name, spec in _inputs(recipe)
    }  # fmt: skip


def _batch(
    arrays: Sequence[Array], spec: TensorSpec, span: tuple[float, float] | None, batch: int, *, largest: bool
) -> Array:
    found = np.array([array.shape for array in arrays], dtype=np.int64)
    sizes = zip((found.max(axis=0) if largest else found.min(axis=0)).tolist(), spec.shape, strict=True)
    named = spec.sizes or (None,) * len(spec.shape)
    shape = [
        max(size, _LEAST_SIZE) if declared == -1 and of is None else size
        for (size, declared), of in zip(sizes, named, strict=True)
    ]
    return np.stack([padded(arrays[index % len(arrays)], shape, span) for index in range(batch)])


def _made_up(spec: TensorSpec, span: tuple[float, float] | None, batch: int, seed: int) -> Array:
    """Draw integers and bounded floats evenly from their range, other floats from N(0, 1).

    Integers without a declared range are 0 to 255 (UINT8) or 0 and 1: anything larger may be no valid index.
    """
    random, dtype = np.random.default_rng(seed), np.dtype(NUMPY_BY_DTYPE[spec.dtype])
    shape = (batch, *_made_up_shape(spec))
    if dtype.kind in "biu":
        low, high = span or (0, 255 if dtype == np.uint8 else 1)
        return random.integers(math.ceil(low), math.floor(high), shape, endpoint=True).astype(dtype)
    if span is not None:
        return random.uniform(*span, shape).astype(dtype).clip(*span)
    return random.standard_normal(shape).astype(dtype)


def _made_up_shape(spec: TensorSpec) -> list[int]:
    known = spec.sizes or (None,) * len(spec.shape)
    return [
        dim if dim != -1 else _MADE_UP_SIZE if size is None else size.nearest(_MADE_UP_SIZE)
        for dim, size in zip(spec.shape, known, strict=True)
    ]
