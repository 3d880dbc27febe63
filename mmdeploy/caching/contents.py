"""The arrays behind a trace: samples of the recipe's data, files beside the trace, or made-up values for a hash.

What is made up keeps to the input's declared range, is the same for the same hash, and differs for others: for hit
rates nothing else counts.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.caching.trace import Content, Request
from mmdeploy.core.artifact import NUMPY_BY_DTYPE, Array, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.core.strings import BYTES, packed
from mmdeploy.data.media import read_tensor
from mmdeploy.data.samples import stream

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

Ranges = Mapping[str, tuple[float, float]]
#: Of arrays that are kept at most: what is popular in a trace is asked for again and again.
_KEPT_BYTES = 2**28


class Contents:
    """Finds the arrays of a trace's contents; those that were asked for lately are kept."""

    def __init__(
        self,
        specs: Iterable[TensorSpec],
        *,
        trace: Path,
        ranges: Ranges | None = None,
        samples: Sequence[Mapping[str, Array]] = (),
    ) -> None:
        """Take what an ensemble's clients send.

        Args:
            specs: The ensemble's inputs, the batch left out.
            trace: The file; the files that it names lie beside it.
            ranges: Lowest and highest value allowed, by input.
            samples: The recipe's, as far as the trace refers to them.
        """
        self._specs = {spec.name: spec for spec in specs}
        self._trace, self._ranges, self._samples = trace, ranges or {}, samples
        self._made: OrderedDict[tuple[str, Content], Array] = OrderedDict()
        self._made_bytes = 0

    def place(self, request: Request) -> str:
        """Return where a request stands: the trace's file and line."""
        return f"{self._trace}:{request.line}" if request.line else str(self._trace)

    def feeds(self, request: Request) -> dict[str, Array]:
        """Return a request's arrays, its rows along axis 0.

        Raises:
            UsageError: Naming the line, if a content cannot be had.
        """
        return {name: self._stacked(name, rows, request) for name, rows in request.inputs.items()}

    def known_by_bytes(self, requests: Iterable[Request]) -> list[Request]:
        """Return requests whose contents are named by their bytes, as Triton goes by: two names may have the same.

        Raises:
            UsageError: As of `feeds`, for the first request that cannot be asked.
        """
        names: dict[tuple[str, Content], Content] = {}
        found = []
        for request in requests:
            for name, rows in request.inputs.items():
                if any((name, one) not in names for one in rows):
                    for one, array in zip(rows, self._stacked(name, rows, request), strict=True):
                        names[name, one] = Content("hash", _digest(array))
            known = {name: tuple(names[name, one] for one in rows) for name, rows in request.inputs.items()}
            found.append(replace(request, inputs=known))
        return found

    def _stacked(self, name: str, rows: Sequence[Content], request: Request) -> Array:
        try:
            arrays = [self._array(name, one) for one in rows]
        except UsageError as error:
            raise UsageError(f"{self.place(request)}: {error.message}", hint=error.hint) from error
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise UsageError(
                f"{self.place(request)}: {name}: the rows of one request have the shapes {shapes}",
                hint="rows of one request are of one shape: ask them one by one",
            )
        return np.stack(arrays)

    def _array(self, name: str, content: Content) -> Array:
        key = (name, content)
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        made = self._made[key] = self._find(self._specs[name], content)
        self._made_bytes += made.nbytes
        while self._made_bytes > _KEPT_BYTES and len(self._made) > 1:
            self._made_bytes -= self._made.popitem(last=False)[1].nbytes
        return made

    def _find(self, spec: TensorSpec, content: Content) -> Array:
        if content.kind == "sample":
            if int(content.value) >= len(self._samples):
                raise UsageError(
                    f"{spec.name}: sample {content.value} cannot be had: "
                    + (f"the data has {len(self._samples)}" if self._samples else "only a recipe has samples"),
                    hint="name a file beside the trace instead",
                )
            sample = self._samples[int(content.value)]
            if spec.name not in sample:
                raise UsageError(f"{spec.name}: sample {content.value} leaves this input out", hint="leave it out, too")
            return np.asarray(sample[spec.name])
        if content.kind == "file":
            path = self._trace.parent / content.value
            try:
                return np.array([path.read_bytes()], dtype=object) if spec.dtype == BYTES else read_tensor(path, spec)
            except OSError as cause:
                raise UsageError(f"{spec.name}: {path} cannot be read: {cause.strerror}") from cause
        if spec.dtype == BYTES or spec.dtype not in NUMPY_BY_DTYPE or -1 in spec.shape:
            raise UsageError(
                f"{spec.name}: nothing can be made up for the hash {content.value!r}: the input is {spec}",
                hint="refer to a sample or a file instead",
            )
        return made_up(content.value, spec, self._ranges.get(spec.name))


def _digest(array: Array) -> str:
    content = packed(array) if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(content).hexdigest()


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
    optional = [name for name, spec in recipe.inputs.items() if spec.optional]
    found = stream(
        recipe.data.evaluation, root=recipe.root, specs=recipe.input_specs, limit=max(numbers) + 1, optional=optional
    )
    return [feed for feed, _ in itertools.islice(found, max(numbers) + 1)]
