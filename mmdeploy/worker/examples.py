"""Examples: small batches of a component's inputs, on which steps trace, compare, count and try what they make.

They are the recipe's own samples, calibration or else evaluation, passed through what lies upstream in PyTorch. Made-up
values stand in only where a recipe names neither: a mask of noise, or ids that no tokenizer gives, ask of a model what
nobody will.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.core import facts
from mmdeploy.core.artifact import DTYPE_BY_NUMPY, NUMPY_BY_DTYPE, Array, Artifact, TensorSpec
from mmdeploy.core.errors import ModelError
from mmdeploy.data.padding import padded
from mmdeploy.model.torch_model import torch_threads
from mmdeploy.planning.steps import EXAMPLES, examples_from
from mmdeploy.recipe.wiring import upstream
from mmdeploy.worker.feeds import sample_set, torch_chain

if TYPE_CHECKING:
    from mmdeploy.data.sample_sets import SampleSet
    from mmdeploy.model.torch_model import TorchChain
    from mmdeploy.recipe.schema import InputSpec, Recipe
    from mmdeploy.worker.task import Task

_EXAMPLE = "example.npz"
#: Size of an axis that varies, in made-up values.
_MADE_UP_SIZE = 16
#: Least size of an axis that varies, in a batch: torch.export takes a size of 1 as fixed.
_LEAST_SIZE = 2


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

    def __call__(self, batch: int) -> dict[str, Array]:
        """Return a feed dict of the component with so many samples.

        Raises:
            ModelError: If what lies upstream cannot be run.
        """
        return self._given(ensemble_examples(self._task.recipe, self._samples(), batch))

    def varying(self, declared: Collection[str]) -> tuple[TensorSpec, ...]:
        """Return the specs of the component's inputs whose size differs from sample to sample, -1 where it does.

        Args:
            declared: Inputs that the recipe declares: they are passed over.
        """
        recipe, samples = self._task.recipe, self._samples()
        wires = recipe.components[self._task.step.component].inputs
        if samples is None or all(name in declared for name in wires):
            return ()
        least, most = (_of_one_size(recipe, samples, _LEAST_SIZE, largest=which) for which in (False, True))
        if all(least[name].shape == array.shape for name, array in most.items()):
            return ()
        try:
            small, large = self._given(least), self._given(most)
        except ModelError:  # of samples that were cut: those that nobody cut are fed later
            return ()
        specs = []
        for name, array in large.items():
            other = small[name].shape
            differs = len(other) == array.ndim and other[1:] != array.shape[1:]
            if name not in declared and differs and array.dtype.name in DTYPE_BY_NUMPY:
                shape = tuple(-1 if pair[0] != pair[1] else pair[0] for pair in zip(array.shape, other, strict=True))
                specs.append(TensorSpec(name, DTYPE_BY_NUMPY[array.dtype.name], shape[1:]))
        return tuple(specs)

    def _given(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """Return what the component is given where clients send some tensors."""
        recipe, component = self._task.recipe, self._task.recipe.components[self._task.step.component]
        before = upstream(recipe.components, self._task.step.component)
        if before and any(wire.tensor not in tensors for wire in component.inputs.values()):
            with torch_threads(self._task.threads):  # more would spin beside the steps that run at the same time
                self._chain = self._chain or torch_chain(self._task, before)
                tensors = tensors | self._chain.run(tensors)
        return {name: tensors[wire.tensor] for name, wire in component.inputs.items()}

    def _samples(self) -> SampleSet | None:
        key = examples_from(self._task.recipe.data)
        samples = None if key is None else sample_set(self._task, key)
        return None if samples is None else samples.first(EXAMPLES)


def ensemble_examples(recipe: Recipe, samples: SampleSet | None, batch: int) -> dict[str, Array]:
    """Return a batch of what clients send.

    Args:
        recipe: Declares the inputs.
        samples: What the batch is made of, from the first, and again from the first where there are too few. None makes
            values up.
        batch: Number of samples. One alone has its own size on axes that vary; of several the smaller ones are padded
            to the largest in the set, as a client would.
    """
    if samples is None:
        return {name: _made_up(spec, batch, recipe.seed + index) for index, (name, spec) in enumerate(_inputs(recipe))}
    if batch == 1:
        first = samples.batch(0, 1)
        return {name: np.array(first[name]) for name, _ in _inputs(recipe)}
    return _of_one_size(recipe, samples, batch, largest=True)


def _inputs(recipe: Recipe) -> Sequence[tuple[str, InputSpec]]:
    return tuple(recipe.inputs.items())


def _of_one_size(recipe: Recipe, samples: SampleSet, batch: int, *, largest: bool) -> dict[str, Array]:
    """Return a batch of samples, each padded to the largest size in the set, or cut to the smallest."""
    chosen = [samples.batch(index, index + 1) for index in range(samples.count)]
    return {
        name: _batch([one[name][0] for one in chosen], spec, batch, largest=largest) for name, spec in _inputs(recipe)
    }


def _batch(arrays: Sequence[Array], spec: InputSpec, batch: int, *, largest: bool) -> Array:
    found = np.array([array.shape for array in arrays], dtype=np.int64)
    sizes = zip((found.max(axis=0) if largest else found.min(axis=0)).tolist(), spec.shape, strict=True)
    shape = [max(size, _LEAST_SIZE) if declared == -1 else size for size, declared in sizes]
    return np.stack([padded(arrays[index % len(arrays)], shape, spec.range) for index in range(batch)])


def _made_up(spec: InputSpec, batch: int, seed: int) -> Array:
    """Draw integers and bounded floats evenly from their range, other floats from N(0, 1).

    Integers without a declared range are 0 to 255 (UINT8) or 0 and 1: anything larger may be no valid index.
    """
    random, dtype = np.random.default_rng(seed), np.dtype(NUMPY_BY_DTYPE[spec.dtype])
    shape = (batch, *(_MADE_UP_SIZE if size == -1 else size for size in spec.shape))
    if dtype.kind in "biu":
        low, high = spec.range or (0, 255 if dtype == np.uint8 else 1)
        return random.integers(math.ceil(low), math.floor(high), shape, endpoint=True).astype(dtype)
    if spec.range is not None:
        return random.uniform(*spec.range, shape).astype(dtype).clip(*spec.range)
    return random.standard_normal(shape).astype(dtype)
