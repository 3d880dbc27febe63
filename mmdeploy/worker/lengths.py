"""Examples at lengths of sizes that vary: the smallest, the largest, typical ones, and those where graphs go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.core.artifact import DTYPE_BY_NUMPY, Array, TensorSpec
from mmdeploy.core.sizes import Lengths, Size, size_of
from mmdeploy.recipe.wiring import upstream

if TYPE_CHECKING:
    from mmdeploy.data.sample_sets import SampleSet
    from mmdeploy.recipe.schema import Recipe


#: Samples of other lengths that are tried where lengths have no name.
_MOST_UNLIKE = 5


def named_sizes(specs: Sequence[TensorSpec]) -> dict[str, Size]:
    """Return the sizes that tensors have, by name."""
    return {size.name: size for spec in specs for size in spec.sizes if size is not None}


def typical(specs: Sequence[TensorSpec], samples: SampleSet | None) -> dict[str, int]:
    """Return the median length of each size in a set of samples; without one the middle of its bounds."""
    found: dict[str, list[int]] = {}
    for index in range(samples.count if samples is not None else 0):
        assert samples is not None
        arrays = samples.batch(index, index + 1)
        for spec in specs:
            for axis, size in enumerate(spec.sizes):
                if size is not None:
                    found.setdefault(size.name, []).append(arrays[spec.name].shape[axis + 1])
    return {
        name: size.nearest(float(np.median(found[name])) if name in found else (size.min + size.max) / 2)
        for name, size in named_sizes(specs).items()
    }


def tried(specs: Sequence[TensorSpec], samples: SampleSet | None) -> list[dict[str, int]]:
    """Return lengths that tell whether all work, each of all sizes at once, from the smallest to the largest."""
    usual = typical(specs, samples)
    rows = {name: size.tried([usual[name]]) for name, size in named_sizes(specs).items()}
    longest = max(map(len, rows.values()), default=0)
    spread = {name: [lengths[place * (len(lengths) - 1) // max(longest - 1, 1)] for place in range(longest)]
              for name, lengths in rows.items()}  # fmt: skip
    return [{name: lengths[place] for name, lengths in spread.items()} for place in range(longest)]


def unlike(specs: Sequence[TensorSpec], samples: SampleSet | None) -> Iterator[tuple[Lengths, dict[str, Array]]]:
    """Give some samples that differ in axes without a name, each as a batch of its own, and how long these are."""
    open_ones = [
        (spec.name, axis)
        for spec in specs
        for axis, (dim, size) in enumerate(zip(spec.shape, spec.sizes or (None,) * len(spec.shape), strict=True))
        if dim == -1 and size is None
    ]
    seen: set[tuple[int, ...]] = set()
    for index in range(samples.count if samples is not None and open_ones else 0):
        assert samples is not None
        sample = samples.batch(index, index + 1)
        lengths = {f"{name}_{axis}": sample[name].shape[axis + 1] for name, axis in open_ones}
        if (key := tuple(lengths.values())) not in seen and len(seen) < _MOST_UNLIKE:
            seen.add(key)
            yield lengths, {spec.name: np.array(sample[spec.name]) for spec in specs}


def at_lengths(array: Array, spec: TensorSpec, lengths: Lengths) -> Array:
    """Return a sample at other lengths: cut, or gone through again from its beginning, so that its values stay real."""
    for axis, size in enumerate(spec.sizes):
        if size is not None and size.name in lengths and array.shape[axis]:
            array = np.take(array, np.arange(lengths[size.name]) % array.shape[axis], axis=axis)
    return array


def _origins(recipe: Recipe, tensor: str) -> set[str]:
    """Return the names of the sizes of what clients send that lies upstream of a tensor."""
    writer = next(
        name for name, part in recipe.components.items() if tensor in {wire.tensor for wire in part.outputs.values()}
    )
    before = (writer, *upstream(recipe.components, writer))
    read = {wire.tensor for name in before for wire in recipe.components[name].inputs.values()}
    return {*named_sizes([spec for spec in recipe.source_specs if spec.name in read])}


def open_axes(spec: TensorSpec) -> list[Size | None]:
    """Return what is known of each size of a tensor that varies."""
    known = spec.sizes or (None,) * len(spec.shape)
    return [size for dim, size in zip(spec.shape, known, strict=True) if dim == -1]


def longer(batch: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return a batch of what clients send, one longer on each axis that varies without a name."""
    made = dict(batch)
    for spec in specs:
        known = spec.sizes or (None,) * len(spec.shape)
        for axis, (dim, size) in enumerate(zip(spec.shape, known, strict=True), start=1):
            if dim == -1 and size is None:
                here = made[spec.name]
                made[spec.name] = np.take(here, np.arange(here.shape[axis] + 1) % here.shape[axis], axis=axis)
    return made


def measured(
    name: str, tensor: str, found: Sequence[tuple[Lengths, Array]], recipe: Recipe, every: bool
) -> TensorSpec | None:
    """Return the spec of a tensor that was computed at several lengths; None where its size does not vary.

    Args:
        name: Of the component's input.
        tensor: Of the ensemble's tensor.
        found: The tensor, batch first, at each length.
        recipe: Declares the sizes.
        every: Whether all sizes that vary were tried from their smallest to their largest length.
    """
    shapes = {array.shape[1:] for _, array in found}
    dtype = DTYPE_BY_NUMPY.get(found[0][1].dtype.name)
    if len(shapes) == 1 or len({len(shape) for shape in shapes}) > 1 or dtype is None:
        return None
    dims, sizes = [], list[Size | None]()
    for axis, lengths in enumerate(zip(*(array.shape[1:] for _, array in found), strict=True)):
        varies = len(set(lengths)) > 1
        dims.append(-1 if varies else lengths[0])
        seen = [(at, array.shape[axis + 1]) for at, array in found]
        known = named_sizes(recipe.source_specs)
        origins = _origins(recipe, tensor)
        sizes.append(size_of(f"{tensor}_{axis}", seen, known, every=every, origins=origins) if varies else None)
    return TensorSpec(name, dtype, tuple(dims), tuple(sizes) if any(sizes) else ())
