"""The arrays behind a trace: samples of the recipe's data, files beside the trace, or made-up values for a hash.

What is made up keeps to the input's declared range, is the same for the same hash, and differs for others: for hit
rates nothing else counts.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.caching.trace import Content, Request
from mmdeploy.core.artifact import NUMPY_BY_DTYPE, Array, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.core.strings import BYTES
from mmdeploy.data.media import read_tensor
from mmdeploy.data.samples import stream

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

Ranges = Mapping[str, tuple[float, float]]


class Contents:
    """Finds the array of a content, each made once."""

    def __init__(
        self,
        specs: Iterable[TensorSpec],
        *,
        folder: Path,
        ranges: Ranges | None = None,
        samples: Sequence[Mapping[str, Array]] = (),
    ) -> None:
        """Take what an ensemble's clients send.

        Args:
            specs: The ensemble's inputs, the batch left out.
            folder: Of the trace.
            ranges: Lowest and highest value allowed, by input.
            samples: The recipe's, as far as the trace refers to them.
        """
        self._specs = {spec.name: spec for spec in specs}
        self._folder, self._ranges, self._samples = folder, ranges or {}, samples
        self._made: dict[tuple[str, Content], Array] = {}

    def feeds(self, request: Request) -> dict[str, Array]:
        """Return a request's arrays, its rows along axis 0.

        Raises:
            UsageError: If a content cannot be had.
        """
        return {name: np.stack([self._array(name, one) for one in rows]) for name, rows in request.inputs.items()}

    def _array(self, name: str, content: Content) -> Array:
        key = (name, content)
        if key not in self._made:
            self._made[key] = self._find(self._specs[name], content)
        return self._made[key]

    def _find(self, spec: TensorSpec, content: Content) -> Array:
        if content.kind == "sample":
            if int(content.value) >= len(self._samples):
                raise UsageError(
                    f"{spec.name}: sample {content.value} cannot be had: "
                    + (f"the data has {len(self._samples)}" if self._samples else "only a recipe has samples"),
                    hint="name a file beside the trace instead",
                )
            return np.asarray(self._samples[int(content.value)][spec.name])
        if content.kind == "file":
            path = self._folder / content.value
            if spec.dtype == BYTES:
                try:
                    return np.array([path.read_bytes()], dtype=object)
                except OSError as cause:
                    raise UsageError(f"{spec.name}: {path} cannot be read: {cause.strerror}") from cause
            return read_tensor(path, spec)
        if spec.dtype == BYTES or spec.dtype not in NUMPY_BY_DTYPE or -1 in spec.shape:
            raise UsageError(
                f"{spec.name}: nothing can be made up for the hash {content.value!r}: the input is {spec}",
                hint="refer to a sample or a file instead",
            )
        return made_up(content.value, spec, self._ranges.get(spec.name))


def made_up(text: str, spec: TensorSpec, span: tuple[float, float] | None) -> Array:
    """Return values of a type and shape within a range, by default [0, 1], that a text decides."""
    random = np.random.default_rng(list(hashlib.sha256(f"{spec.name} {text}".encode()).digest()))
    low, high = span or (0, 1)
    if spec.numpy_dtype.kind == "f":
        return random.uniform(low, high, spec.shape).astype(spec.numpy_dtype)
    top = max(high, 255) if spec.dtype == "UINT8" and span is None else high
    return random.integers(int(low), int(top), spec.shape, endpoint=True).astype(spec.numpy_dtype)


def samples_for(recipe: Recipe, requests: Iterable[Request]) -> list[dict[str, Array]]:
    """Return the samples of the recipe's evaluation data that a trace refers to, and those before them.

    Raises:
        UsageError: If it refers to samples and the recipe has none.
        DataError: If the data is bad.
    """
    numbers = [
        int(one.value)
        for request in requests
        for rows in request.inputs.values()
        for one in rows
        if one.kind == "sample"
    ]
    if not numbers:
        return []
    if recipe.data.evaluation is None:
        raise UsageError("the trace refers to samples, and the recipe names no data.evaluation")
    found = stream(recipe.data.evaluation, root=recipe.root, specs=recipe.input_specs, limit=max(numbers) + 1)
    return [feed for feed, _ in itertools.islice(found, max(numbers) + 1)]
