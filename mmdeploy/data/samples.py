"""Samples that the recipe's data callables give: streamed, checked one by one, batched.

A data callable takes no arguments and returns an iterable of samples. A sample is a feed dict, ensemble input
name to array without a batch dimension, or a pair of a feed dict and a label (see `mmdeploy.data.labels`).

Quantizers take whatever they are given: constants, NaN, one sample repeated. `check_calibration` refuses such
sets before anything is quantized. It holds one sample at a time, and 16 bytes of digest for each sample seen.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import DataError, did_you_mean
from mmdeploy.core.labels import Labels
from mmdeploy.data.labels import stacked_labels
from mmdeploy.model.sources import describe, importing_from, on_path, resolve_callable

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Ranges = Mapping[str, tuple[float, float]]

_DIGEST_BYTES = 16


def stream(
    reference: str,
    *,
    root: Path,
    specs: Sequence[TensorSpec],
    ranges: Ranges | None = None,
    limit: int | None = None,
    epoch: int | None = None,
) -> Iterator[tuple[Feed, Any]]:
    """Yield samples one at a time, each checked for names, types, shapes, finiteness and ranges.

    Args:
        reference: The data callable, ``path.py:callable`` or ``package.module:callable``.
        root: Folder of the recipe.
        specs: The ensemble's inputs.
        ranges: Smallest and largest value allowed, by input.
        limit: Stop after so many samples; None takes all.
        epoch: Given to the callable if it has a parameter of this name: `takes_epoch`.

    Yields:
        Feed dict without a batch dimension, and the label or None.

    Raises:
        DataError: Naming the sample and the input.
    """
    for index, sample in enumerate(_samples(reference, root, limit, epoch)):
        where = f"{reference}: sample {index}"
        feed, label = _split(sample, where)
        yield _checked(feed, specs, ranges or {}, where), label


def takes_epoch(reference: str, root: Path) -> bool:
    """Say whether a data callable has a parameter ``epoch``, and so gives other samples in each epoch.

    Raises:
        DataError: If there is no such callable.
    """
    try:
        return "epoch" in inspect.signature(resolve_callable(reference, root, error=DataError)).parameters
    except (TypeError, ValueError):  # it has no signature that Python can tell
        return False


@dataclass(frozen=True)
class InputSummary:
    """Figures of one input over a whole set: smallest, largest and mean value."""

    minimum: float
    maximum: float
    mean: float


@dataclass(frozen=True)
class CalibrationSummary:
    """What a calibration set holds.

    Attributes:
        samples: Number of samples, after ``limit``.
        inputs: Figures by ensemble input.
    """

    samples: int
    inputs: Mapping[str, InputSummary]


def check_calibration(
    reference: str,
    *,
    root: Path,
    specs: Sequence[TensorSpec],
    ranges: Ranges | None = None,
    limit: int | None = None,
) -> CalibrationSummary:
    """Read a calibration set once and refuse it where it would ruin the ranges.

    Beside what `stream` checks, refused are: an empty set; an input that is zero in all of a sample (inputs
    of one element excepted); an input that has one value in the whole set; a sample that repeats an earlier
    one. Masks, which are Boolean inputs and integers with a declared range within [0, 1], may be constant.

    Raises:
        DataError: Naming the sample and the input.
    """
    census = {spec.name: _Census(spec.name, _is_mask(spec, ranges or {})) for spec in specs}
    first_seen: dict[bytes, int] = {}
    count = 0
    for feed, _ in stream(reference, root=root, specs=specs, ranges=ranges, limit=limit):
        where = f"{reference}: sample {count}"
        for name, array in feed.items():
            census[name].add(array, where)
        _refuse_repeated(feed, first_seen, count, where)
        count += 1
    if not count:
        raise DataError(f"{reference} gives no samples", hint="calibration needs at least one; 100 to 500 do")
    for name, figures in census.items():
        figures.refuse_constant(reference, count)
        if not figures.elements:
            raise DataError(f"{reference}: input {name!r} has no elements in any sample")
    return CalibrationSummary(count, {name: figures.summary() for name, figures in census.items()})


@dataclass(frozen=True)
class Batches:
    """Batches of a data callable; every iteration calls it anew and streams.

    Attributes:
        reference: The data callable.
        root: Folder of the recipe.
        specs: The ensemble's inputs.
        batch_size: Samples in a batch; the last may be smaller.
        ranges: Smallest and largest value allowed, by input.
        limit: Number of samples to take; None takes all.
    """

    reference: str
    root: Path
    specs: tuple[TensorSpec, ...]
    batch_size: int
    ranges: Ranges | None = None
    limit: int | None = None

    def __iter__(self) -> Iterator[Feed]:
        """Yield feed dicts, batch on axis 0."""
        waiting: list[Feed] = []
        first = 0
        for feed, _ in stream(self.reference, root=self.root, specs=self.specs, ranges=self.ranges, limit=self.limit):
            waiting.append(feed)
            if len(waiting) == self.batch_size:
                yield stacked(waiting, self.reference, first)
                first += len(waiting)
                waiting = []
        if waiting:
            yield stacked(waiting, self.reference, first)

    def count(self, samples: int) -> int:
        """Return the number of batches that ``samples`` samples make."""
        return math.ceil(samples / self.batch_size)


def batches(
    reference: str,
    *,
    root: Path,
    specs: Sequence[TensorSpec],
    batch_size: int,
    ranges: Ranges | None = None,
    limit: int | None = None,
) -> Batches:
    """Return the samples of a data callable in batches, to be iterated as often as needed."""
    return Batches(reference, root, tuple(specs), batch_size, ranges, limit)


def load_evaluation(
    reference: str,
    *,
    root: Path,
    specs: Sequence[TensorSpec],
    ranges: Ranges | None = None,
    limit: int | None = None,
) -> tuple[Feed, Labels | None]:
    """Read a whole evaluation set.

    Returns:
        Feeds stacked along axis 0, and the labels, or None when no sample has one.

    Raises:
        DataError: Naming the sample and the input; also when only some samples have a label.
    """
    feeds: list[Feed] = []
    labels: list[Any] = []
    for index, (feed, label) in enumerate(stream(reference, root=root, specs=specs, ranges=ranges, limit=limit)):
        if index and (label is None) != (labels[0] is None):
            odd = "has no label, but sample 0 has" if label is None else "has a label, but sample 0 has none"
            raise DataError(f"{reference}: sample {index} {odd}")
        feeds.append(feed)
        labels.append(label)
    if not feeds:
        raise DataError(f"{reference} gives no samples", hint="evaluation needs samples to judge on")
    return stacked(feeds, reference, 0), None if labels[0] is None else stacked_labels(labels, reference)


def sample_digest(feed: Mapping[str, Array]) -> bytes:
    """Return 16 bytes that tell a sample's inputs, in the order of the specs, from all others."""
    digest = hashlib.sha256()
    for array in feed.values():
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.digest()[:_DIGEST_BYTES]


def _samples(reference: str, root: Path, limit: int | None, epoch: int | None = None) -> Iterator[Any]:
    """Iterate over what the user's callable gives, translating what it raises."""
    make = resolve_callable(reference, root, error=DataError)
    given = {"epoch": epoch} if epoch is not None and takes_epoch(reference, root) else {}
    taken = 0
    try:
        with importing_from(root):
            iterator = _iterator(make(**given), reference)
        resolved = root.resolve()
        while limit is None or taken < limit:
            with on_path(resolved):
                try:
                    sample = next(iterator)
                except StopIteration:
                    return
            taken += 1
            yield sample
            del sample
    except (DataError, GeneratorExit):
        raise
    except Exception as cause:
        raise DataError(f"{reference} failed after {taken} samples: {describe(cause, root)}") from cause


def _iterator(made: object, reference: str) -> Iterator[Any]:
    if not isinstance(made, Iterable) or isinstance(made, Mapping | str | bytes):
        hint = "yield one feed dict a sample" if isinstance(made, Mapping) else "return or yield samples"
        raise DataError(f"{reference} returned {_a(made)}, expected an iterable of samples", hint=hint)
    return iter(made)


def _split(sample: object, where: str) -> tuple[Mapping[str, Any], Any]:
    if isinstance(sample, Mapping):
        return sample, None
    if isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[0], Mapping):
        return sample[0], sample[1]
    raise DataError(
        f"{where} is {_a(sample)}", hint="a sample is a dict of arrays by input name, or (that dict, label)"
    )


def _checked(feed: Mapping[str, Any], specs: Sequence[TensorSpec], ranges: Ranges, where: str) -> Feed:
    names = [spec.name for spec in specs]
    for name in feed:
        if name not in names:
            raise DataError(f"{where}: unknown input {str(name)!r}", hint=did_you_mean(str(name), names))
    checked: Feed = {}
    for spec in specs:
        if spec.name not in feed:
            raise DataError(
                f"{where} has no input {spec.name!r}",
                hint=f"it has {', '.join(map(str, feed)) or 'none'}; every sample needs all of {', '.join(names)}",
            )
        checked[spec.name] = _checked_array(feed[spec.name], spec, ranges.get(spec.name), where)
    return checked


def _checked_array(value: object, spec: TensorSpec, span: tuple[float, float] | None, where: str) -> Array:
    where = f"{where}, input {spec.name!r}"
    if not hasattr(value, "__array__"):
        raise DataError(f"{where} is {_a(value)}, expected a NumPy array ({spec})")
    array = np.asarray(value)
    mismatch = spec.mismatch(array)
    if mismatch is not None:
        batched = array.ndim == len(spec.shape) + 1 and spec.mismatch(array[:1].reshape(array.shape[1:]))
        hint = None
        if array.ndim == len(spec.shape) + 1 and array.shape[0] == 1 and batched is None:
            hint = "a sample has no batch dimension: give array[0]"
        raise DataError(f"{where}: {mismatch}", hint=hint)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        bad = array[tuple(at)]
        raise DataError(f"{where} holds {'NaN' if np.isnan(bad) else str(bad)} at index {at}")
    if span is not None and array.size and array.dtype.kind != "b":
        _refuse_outside(array, span, where)
    return array


def _refuse_outside(array: Array, span: tuple[float, float], where: str) -> None:
    outside = (array < span[0]) | (array > span[1])
    if outside.any():
        at = np.argwhere(outside)[0].tolist()
        low, high = span
        raise DataError(f"{where} holds {array[tuple(at)]} at index {at}, outside the declared range [{low}, {high}]")


def _refuse_repeated(feed: Feed, first_seen: dict[bytes, int], index: int, where: str) -> None:
    earlier = first_seen.setdefault(sample_digest(feed), index)
    if earlier != index:
        raise DataError(
            f"{where} repeats sample {earlier}: all inputs are identical",
            hint="repeated samples weigh the ranges towards themselves; give each sample once",
        )


def stacked(feeds: Sequence[Feed], reference: str, first: int) -> Feed:
    """Stack samples along a new axis 0; ``first`` is the number of the first of them.

    Raises:
        DataError: If their shapes differ.
    """
    together: Feed = {}
    for name, array in feeds[0].items():
        for offset, feed in enumerate(feeds):
            if feed[name].shape != array.shape:
                raise DataError(
                    f"{reference}: samples {first} and {first + offset} cannot be in one batch: "
                    f"input {name!r} is {list(array.shape)} and {list(feed[name].shape)}",
                    hint="pad the samples to one size, or use batches of 1",
                )
        together[name] = np.stack([feed[name] for feed in feeds])
    return together


def _a(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _is_mask(spec: TensorSpec, ranges: Ranges) -> bool:
    low, high = ranges.get(spec.name, (-math.inf, math.inf))
    return spec.dtype == "BOOL" or (spec.numpy_dtype.kind in "iu" and low >= 0 and high <= 1)


@dataclass
class _Census:
    """Streaming figures of one input."""

    name: str
    mask: bool
    elements: int = 0
    total: float = 0.0
    minimum: float = field(default=math.inf)
    maximum: float = field(default=-math.inf)

    def add(self, array: Array, where: str) -> None:
        if not array.size:
            return
        if array.size > 1 and not self.mask and not array.any():
            raise DataError(
                f"{where}, input {self.name!r} is all zero",
                hint="silence, a black image or padding teaches the ranges nothing: leave the sample out",
            )
        self.elements += array.size
        self.total += float(array.sum(dtype=np.float64))
        self.minimum = min(self.minimum, float(array.min()))
        self.maximum = max(self.maximum, float(array.max()))

    def refuse_constant(self, reference: str, samples: int) -> None:
        if not self.mask and self.elements and self.minimum == self.maximum:
            count = f"all {samples} samples" if samples > 1 else "its only sample"
            raise DataError(
                f"{reference}: input {self.name!r} is {self.minimum:g} everywhere in {count}",
                hint="calibrate on data like that of production: a constant gives a range of nothing",
            )

    def summary(self) -> InputSummary:
        return InputSummary(self.minimum, self.maximum, self.total / self.elements)
