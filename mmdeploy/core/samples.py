"""Samples that need not be alike: of other lengths, or with an input left out; and what may be in one request.

A *column* holds one tensor of all samples. Where they are alike it is an array, the samples along axis 0. Where their
shapes differ, or some samples leave the tensor out, it is an object array of shape [samples] with an array each, None
where it is left out. Text and media (BYTES) are object arrays of ``bytes``, of the shape that numbers would have.
Either kind is indexed along its samples by numbers, a mask or a slice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Array

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Indices = npt.NDArray[np.intp]


class Samples(Mapping[str, Array]):
    """Columns by name, of as many samples each; immutable."""

    def __init__(self, columns: Mapping[str, Array], made: Mapping[str, Array] = MappingProxyType({})) -> None:
        """Take the columns; they are not copied.

        Args:
            columns: What is in a request.
            made: What is made of it there: samples of which it differs in shape cannot be in one request either.
        """
        self._columns, self._made = dict(columns), dict(made)

    @classmethod
    def of(cls, columns: Mapping[str, Array]) -> Samples:
        """Return columns as samples; samples as they are."""
        return columns if isinstance(columns, Samples) else cls(columns)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return tuple(self._columns)

    @property
    def made(self) -> Mapping[str, Array]:
        """Columns of what is made of what is sent, as far as they are known."""
        return MappingProxyType(self._made)

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self._columns.values()), ()))

    def column(self, name: str) -> Array:
        """Return a tensor of all samples."""
        return self._columns[name]

    def without(self, names: Collection[str]) -> Samples:
        """Return the samples with some tensors left out."""
        return Samples({name: column for name, column in self._columns.items() if name not in names}, self._made)

    def sending(self, names: Collection[str]) -> Samples:
        """Return samples of which some tensors are sent, and all others made of those."""
        return Samples(
            {name: column for name, column in self._columns.items() if name in names},
            {name: column for name, column in self._columns.items() if name not in names},
        )

    def replaced(self, columns: Mapping[str, Array]) -> Samples:
        """Return the samples with other columns in the place of some."""
        return Samples(self._columns | dict(columns), self._made)

    def select(self, rows: Indices | slice) -> Samples:
        """Return some of the samples."""
        columns, made = (
            {name: picked(column, rows) for name, column in some.items()} for some in (self._columns, self._made)
        )
        return Samples(columns, made)

    def take(self, rows: Indices | slice) -> dict[str, Array]:
        """Return a request of some samples, stacked along axis 0; what they leave out is not in it.

        Raises:
            ValueError: If they cannot be in one request.
        """
        chosen = _as_slice(rows)
        taken = {}
        for name, column in self._columns.items():
            stacked = _stacked(name, column[chosen]) if name in self._ragged else column[chosen]
            if stacked is not None:
                taken[name] = stacked
        return taken

    def groups(self) -> tuple[Indices, ...]:
        """Return the samples that may be in one request: of the same shapes, with the same inputs, and so what is made.

        Indices ascend, and groups come in the order of their first samples.
        """
        import numpy as np

        unlike = [self._columns[name] for name in sorted(self._ragged)]
        unlike += [column for column in self._made.values() if is_ragged(column)]
        if not unlike:
            return (np.arange(self.count),) if self.count else ()
        rows_by_layout: dict[tuple[Any, ...], list[int]] = {}
        shapes = [map(_shape, column) for column in unlike]
        for row, layout in enumerate(zip(*shapes, strict=True)):
            rows_by_layout.setdefault(layout, []).append(row)
        return tuple(np.array(rows, dtype=np.intp) for rows in rows_by_layout.values())

    def batches(self, size: int) -> Iterator[Indices]:
        """Yield the rows of batches of up to so many samples that may be in one request, the first sample's first."""
        parts = [rows[start : start + size] for rows in self.groups() for start in range(0, len(rows), size)]
        yield from sorted(parts, key=lambda rows: int(rows[0]))

    @functools.cached_property
    def _ragged(self) -> frozenset[str]:
        return frozenset(name for name, column in self._columns.items() if is_ragged(column))


class Gathered:
    """A column that is filled a batch at a time, in any order."""

    def __init__(self, samples: int, room: Callable[[int, Array], Array] | None = None) -> None:
        """Make room.

        Args:
            samples: How many there are.
            room: Gives the array for all samples of a tensor of which a batch is given; one in memory by default.
        """
        import numpy as np

        self._samples, self._room = samples, room or _in_memory
        self._filled = np.zeros(samples, dtype=bool)
        self._alike: Array | None = None
        self._apart: list[Array | None] | None = None

    def put(self, rows: Indices | slice, batch: Array) -> None:
        """Fill in samples, which a batch has along its axis 0.

        Raises:
            ValueError: If it holds another number of samples.
        """
        import numpy as np

        places = np.arange(self._samples)[rows]
        if batch.shape[:1] != places.shape:
            raise ValueError(f"a batch of shape {list(batch.shape)} does not hold {len(places)} samples")
        if self._alike is None and self._apart is None:
            self._alike = self._room(self._samples, batch)
        if self._alike is not None and self._alike.shape[1:] == batch.shape[1:]:
            self._alike[rows] = batch
        else:
            if self._apart is None:
                assert self._alike is not None
                self._apart = [row if filled else None for row, filled in zip(self._alike, self._filled, strict=True)]
                self._alike = None
            for row, array in zip(places.tolist(), batch, strict=True):
                self._apart[row] = np.asarray(array)
        self._filled[rows] = True

    def column(self) -> Array:
        """Return the column; None stands where nothing was filled in."""
        if self._alike is not None and self._filled.all():
            return self._alike
        if self._alike is not None:
            return column_of([row if filled else None for row, filled in zip(self._alike, self._filled, strict=True)])
        return column_of(self._apart or [None] * self._samples)


def column_of(arrays: Sequence[Array | None]) -> Array:
    """Return the column of samples given one by one."""
    import numpy as np

    first = arrays[0] if arrays else None
    if first is not None and all(array is not None and array.shape == first.shape for array in arrays):
        return np.stack([array for array in arrays if array is not None])
    column = np.empty(len(arrays), dtype=object)
    for row, array in enumerate(arrays):
        column[row] = array
    return column


def picked(column: Array, rows: Indices | slice) -> Array:
    """Return some samples of a column, as an array where these are alike."""
    return column_of(list(column[rows])) if is_ragged(column) else column[rows]


def is_text(column: Array) -> bool:
    """Say whether a column holds strings, text or media, of one shape each."""
    return column.dtype.kind == "O" and not is_ragged(column)


def is_ragged(column: Array) -> bool:
    """Say whether a column holds an array each, or None, since its samples are not alike."""
    import numpy as np

    if column.dtype.kind != "O" or column.ndim != 1:
        return False
    return any(one is None or isinstance(one, np.ndarray) for one in column)


def alike(column: Array) -> Iterator[tuple[Indices, Array]]:
    """Yield the rows of samples of one shape with these samples, stacked; those that leave the tensor out are not."""
    samples = Samples({"": column})
    for rows in samples.groups():
        taken = samples.take(rows)
        if taken:
            yield rows, taken[""]


def shapes_of(column: Array) -> Iterable[tuple[int, ...] | None]:
    """Return the shape of each sample."""
    return map(_shape, column) if is_ragged(column) else [column.shape[1:]] * len(column)


def flat(column: Array) -> Array:
    """Return all values of a column, one after the other."""
    import numpy as np

    if not is_ragged(column):
        return column.reshape(-1)
    return np.concatenate([one.reshape(-1) for one in column if one is not None])


def finite(column: Array) -> npt.NDArray[np.bool_]:
    """Say of each sample whether all its values are finite; what are no floats, or is left out, is."""
    import numpy as np

    found = np.ones(len(column), dtype=bool)
    if is_ragged(column):
        for rows, stacked in alike(column):
            found[rows] = finite(stacked)
    elif column.dtype.kind == "f":
        found = np.isfinite(column.reshape(len(column), -1)).all(axis=1)
    return found


def _shape(sample: Any) -> tuple[int, ...] | None:
    """Return the shape of an element of a ragged column."""
    return None if sample is None else getattr(sample, "shape", ())


def _stacked(name: str, part: Array) -> Array | None:
    """Return elements of a ragged column as one array; None where all leave the tensor out."""
    import numpy as np

    shapes = {_shape(one) for one in part}
    if len(shapes) > 1:
        raise ValueError(f"samples that differ cannot be in one request: {name!r} is {sorted(map(str, shapes))}")
    if None in shapes:
        return None
    if isinstance(part[0], bytes):
        return part
    return np.asarray(part[0])[None] if len(part) == 1 else np.stack(list(part))


def _as_slice(rows: Indices | slice) -> Indices | slice:
    """Return rows that follow one another as a slice: a piece of a file that is mapped is then not copied."""
    import numpy as np

    if isinstance(rows, slice) or not len(rows) or int(rows[-1]) - int(rows[0]) + 1 != len(rows):
        return rows
    first = int(rows[0])
    return slice(first, first + len(rows)) if np.array_equal(rows, np.arange(first, first + len(rows))) else rows


def _in_memory(samples: int, like: Array) -> Array:
    import numpy as np

    return np.empty((samples, *like.shape[1:]), like.dtype)
