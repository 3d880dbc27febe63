"""What was seen of a data callable's samples: types, shapes, which sizes vary, and what labels are like."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdeploy.core.artifact import DTYPE_BY_NUMPY
from mmdeploy.core.errors import DataError, did_you_mean, kind_of
from mmdeploy.core.strings import as_strings
from mmdeploy.data.arrays import array_of
from mmdeploy.scaffold.naming import of_size, unused

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Array

#: Samples that are looked at, if they come in the time.
MOST_SAMPLES = 2000
MOST_SECONDS = 10.0
#: Samples that are kept to be run: as many shapes as that, two of each.
_KEPT_SHAPES = 4
#: So many different lengths must have a divisor in common before it is taken for more than chance.
_ENOUGH_LENGTHS = 6

#: Stands for the length of what a sample lacks.
_LACKING = -1

Feed = dict[str, "Array"]


@dataclass
class SeenInput:
    """What samples hold under one name.

    Attributes:
        dtype: Triton's name of the type.
        shape: Of the first sample, without a batch.
        lengths: Of each axis, one a sample; -1 where a sample lacks it.
        low: Smallest value.
        high: Largest value.
    """

    dtype: str
    shape: tuple[int, ...]
    lengths: list[list[int]]
    low: float = math.inf
    high: float = -math.inf

    def add(self, array: Array | None) -> None:
        """Take another sample into account; None for one that lacks it."""
        for axis, lengths in enumerate(self.lengths):
            lengths.append(_LACKING if array is None else array.shape[axis])
        if array is not None and array.size:
            self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))


@dataclass(frozen=True)
class SeenSize:
    """A size that varied from sample to sample.

    Attributes:
        name: What it may be called.
        axes: Where it was: input and axis.
        min: Smallest length seen.
        max: Largest length seen.
        multiple_of: What all lengths are multiples of.
    """

    name: str
    axes: tuple[tuple[str, int], ...]
    min: int
    max: int
    multiple_of: int = 1


@dataclass
class Seen:
    """Samples that were looked at.

    Attributes:
        inputs: By name.
        kept: Some of them, of as many shapes as there are, to be run.
        count: How many were looked at.
        complete: Whether that was all of them.
        judged: How many of these were of the last callable: those that the gates judge on.
        labels: Labels of these, as far as there are any.
        held: For each callable, how many of its samples hold just these inputs.
    """

    inputs: dict[str, SeenInput] = field(default_factory=dict)
    kept: list[Feed] = field(default_factory=list)
    count: int = 0
    complete: bool = True
    judged: int = 0
    labels: list[Any] = field(default_factory=list)
    held: list[Counter[frozenset[str]]] = field(default_factory=list)

    def lacking(self, name: str) -> int:
        """Return how many samples lack an input."""
        return sum(count for held in self.held for names, count in held.items() if name not in names)

    def holding(self, names: Collection[str], *, of: int) -> int:
        """Return how many samples of a callable, by its number, hold inputs."""
        return sum(count for inputs, count in self.held[of].items() if inputs >= {*names})

    @property
    def labelled(self) -> bool:
        """Whether every sample that is judged on has a label."""
        return self.judged > 0 and len(self.labels) == self.judged

    def sizes(self) -> tuple[SeenSize, ...]:
        """Return what varied; axes that were equally long in every sample are one size."""
        groups: dict[tuple[int, ...], list[tuple[str, int]]] = {}
        for name, one in self.inputs.items():
            for axis, column in enumerate(one.lengths):
                if len({*column} - {_LACKING}) > 1:
                    groups.setdefault((*column,), []).append((name, axis))
        found = list[SeenSize]()
        for lengths, axes in groups.items():
            name = unused(self._size_name(axes), {size.name for size in found} | {"batch"})
            there = {*lengths} - {_LACKING}
            step = math.gcd(*there) if len(there) >= _ENOUGH_LENGTHS else 1
            found.append(SeenSize(name, tuple(axes), min(there), max(there), step))
        return tuple(found)

    def _size_name(self, axes: list[tuple[str, int]]) -> str:
        name, axis = axes[0]
        one, word = self.inputs[name], of_size(name)
        if one.dtype.startswith("INT") and len(one.shape) == 1:
            return "tokens"
        return f"{word}_length" if len(one.shape) == 1 else f"{word}_size_{axis}"


def look_at(samples: Iterable[tuple[Mapping[str, Any], Any]], reference: str, into: Seen | None = None) -> Seen:
    """Look at the samples of a data callable; some may lack inputs that others hold.

    Args:
        samples: What it gives.
        reference: Its name, for messages.
        into: What was seen of another callable of the same model: no input is new to these.

    Raises:
        DataError: When there is none, none with all inputs, or one that no model could be fed with.
    """
    seen = into or Seen()
    seen.labels = []
    seen.held.append(Counter())
    before, until = seen.count, time.monotonic() + MOST_SECONDS
    kept = list[Feed]()
    iterator = iter(samples)
    for index, (feed, label) in enumerate(iterator):
        arrays = _arrays(feed, f"{reference}: sample {index}", seen, known=into is not None)
        for name, one in seen.inputs.items():
            one.add(arrays.get(name))
        seen.held[-1][frozenset(arrays)] += 1
        seen.count += 1
        seen.labels += [] if label is None else [label]
        _keep(arrays, kept)
        if index + 1 >= MOST_SAMPLES or time.monotonic() > until:
            seen.complete = next(iterator, None) is None
            break
    seen.judged = seen.count - before
    if seen.judged == 0:
        raise DataError(f"{reference} gives no sample", hint="yield a dict of arrays by input name, one a sample")
    seen.kept += [feed for feed in kept if {*feed} == {*seen.inputs}]
    if not seen.kept:
        raise _none_whole(seen, reference)
    return seen


def _keep(arrays: Feed, kept: list[Feed]) -> None:
    """Keep a sample where few of its shapes are kept."""
    shapes = Counter(_shapes(feed) for feed in kept if {*feed} == {*arrays})
    here = shapes[_shapes(arrays)]
    if here == 1 or (here == 0 and len(shapes) < _KEPT_SHAPES):
        kept.append(arrays)


def _shapes(feed: Feed) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, array.shape) for name, array in feed.items()))


def _none_whole(seen: Seen, reference: str) -> DataError:
    counts = "; ".join(f"{count} with {', '.join(sorted(names))}" for names, count in seen.held[-1].most_common(4))
    return DataError(
        f"{reference}: no sample has all of {', '.join(seen.inputs)}: {counts}",
        hint="name an array as forward's parameter, the same in every sample; the model is watched, and calibrated, "
        "with samples that hold every input (docs/missing_modalities.md)",
    )


def _arrays(feed: Mapping[str, Any], where: str, seen: Seen, *, known: bool) -> Feed:
    if not feed:
        raise DataError(f"{where} is empty", hint="a sample is a dict of arrays by input name")
    if new := [str(name) for name in feed if known and name not in seen.inputs]:
        raise DataError(
            f"{where} has {', '.join(new)}, which no sample of --data has",
            hint=f"those have {', '.join(seen.inputs)}: {did_you_mean(new[0], seen.inputs)}",
        )
    arrays: Feed = {}
    for name, value in feed.items():
        arrays[str(name)] = array = _array(value, f"{where}, input {str(name)!r}")
        dtype = DTYPE_BY_NUMPY[array.dtype.name]
        if name not in seen.inputs:
            before = [[_LACKING] * seen.count for _ in array.shape]
            seen.inputs[str(name)] = SeenInput(dtype, array.shape, before)
        first = seen.inputs[str(name)]
        if len(first.shape) != array.ndim or first.dtype != dtype:
            raise DataError(
                f"{where}, input {name!r} is {dtype} {list(array.shape)}, before it was "
                f"{first.dtype} {list(first.shape)}",
                hint="an input has one type, and as many axes in every sample",
            )
    return arrays


def _array(value: object, where: str) -> Array:
    numbers = isinstance(value, np.ndarray) and value.dtype.kind not in "OSU"
    if not numbers and as_strings(value) is not None:
        raise DataError(
            f"{where} is {kind_of(value)}",
            hint="init looks at the tensors that the model takes: give what your tokenizer or decoder makes of it; "
            "files and text become inputs with `preprocess` in the recipe afterwards (docs/media.md)",
        )
    array = array_of(value, where)
    if array.dtype.name not in DTYPE_BY_NUMPY:
        raise DataError(f"{where} is {array.dtype.name}", hint=f"accepted: {', '.join(DTYPE_BY_NUMPY)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"{where} holds {'NaN' if np.isnan(array).any() else 'an infinite value'}",
            hint="no answer to it would be a number: leave such samples out; what may be missing is no key of the "
            "sample at all (docs/missing_modalities.md)",
        )
    if array.ndim == 0:
        raise DataError(
            f"{where} is a single number without an axis",
            hint="an input: give np.asarray([value]), shape [1]; a label is no input: give (dict, label)",
        )
    return array


def batches(kept: Iterable[Feed]) -> Iterator[Feed]:
    """Give batches of two samples that are alike, one for each shape; a sample without another is taken twice."""
    groups: dict[tuple[tuple[int, ...], ...], list[Feed]] = {}
    for feed in kept:
        groups.setdefault(tuple(array.shape for array in feed.values()), []).append(feed)
    for feeds in groups.values():
        pair = (feeds[0], feeds[-1])
        yield {name: np.stack([feed[name] for feed in pair]) for name in feeds[0]}
