"""Labels of samples: numbers, text, arrays of varying length, or several of these by name; all without pickle.

A label set is one of

- a NumPy array, one row a sample: class ids, targets, masks, token ids padded to one length;
- `Texts`: one string a sample;
- `Ragged`: one array, or one list of strings, a sample, of varying length: boxes, token ids, several references;
- `Table`: several of the above by name.

Each has a length, and gives the label set of some samples for a slice or an array of indices. Arrays may be
memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mmdeploy.core.artifact import Array

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows: TypeAlias = "slice | npt.NDArray[np.intp]"


@dataclass(frozen=True)
class Texts:
    """One string a sample.

    Attributes:
        utf8: All strings in UTF-8, one after the other; uint8.
        offsets: Where each begins, and at last where the last ends; int64, one more than there are samples.
    """

    utf8: Array
    offsets: Array

    @classmethod
    def of(cls, strings: Sequence[str]) -> Texts:
        """Pack strings."""
        import numpy as np

        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), _offsets([len(one) for one in encoded]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Rows) -> Texts:
        chosen, offsets = _chosen(self.offsets, rows)
        return Texts(self.utf8[chosen], offsets)

    def __iter__(self) -> Iterator[str]:
        for start, stop in zip(self.offsets, self.offsets[1:], strict=False):
            yield self.utf8[start:stop].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Ragged:
    """One array, or one list of strings, a sample; they differ in length.

    Attributes:
        values: The rows of all samples, one after the other.
        offsets: Where each sample begins, and at last where the last ends.
    """

    values: Array | Texts
    offsets: Array

    @classmethod
    def of(cls, arrays: Sequence[Array]) -> Ragged:
        """Pack arrays that agree in all axes but the first."""
        import numpy as np

        dtype = np.result_type(*({array.dtype for array in arrays if array.size} or {arrays[0].dtype}))
        filled = next((array for array in arrays if array.size), arrays[0])
        rows = [array.astype(dtype).reshape(len(array), *filled.shape[1:]) for array in arrays]
        return cls(np.concatenate(rows), _offsets([len(array) for array in arrays]))

    @classmethod
    def of_texts(cls, lists: Sequence[Sequence[str]]) -> Ragged:
        """Pack lists of strings."""
        return cls(Texts.of([one for strings in lists for one in strings]), _offsets([len(one) for one in lists]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Rows) -> Ragged:
        chosen, offsets = _chosen(self.offsets, rows)
        return Ragged(self.values[chosen], offsets)

    def __iter__(self) -> Iterator[Array | list[str]]:
        for start, stop in zip(self.offsets, self.offsets[1:], strict=False):
            values = self.values[int(start) : int(stop)]
            yield list(values) if isinstance(values, Texts) else values


Column: TypeAlias = "Array | Texts | Ragged"


@dataclass(frozen=True)
class Table:
    """Labels that are mappings: a column a name."""

    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows: Rows) -> Table:
        return Table({name: column[rows] for name, column in self.columns.items()})


Labels: TypeAlias = "Array | Texts | Ragged | Table"


def plain(labels: Labels) -> Any:
    """Return labels as people write them: an array, a list of strings or of arrays, or a dict of these by name."""
    if isinstance(labels, Table):
        return {name: plain(column) for name, column in labels.columns.items()}
    return list(labels) if isinstance(labels, Texts | Ragged) else labels


def kind(labels: Labels) -> str:
    """Say what labels are, for a message."""
    if isinstance(labels, Table):
        return f"mappings with {', '.join(repr(name) for name in labels.columns)}"
    if isinstance(labels, Texts):
        return "strings"
    if isinstance(labels, Ragged):
        return "lists of strings" if isinstance(labels.values, Texts) else "arrays of varying length"
    return f"an array of shape {list(labels.shape)} and type {labels.dtype}"


def written(labels: Labels, save: Callable[[Array], str]) -> Any:
    """Write labels down: ``save`` keeps an array and gives its name; the JSON-able result tells how to read them."""
    if isinstance(labels, Table):
        return {"table": {name: written(column, save) for name, column in labels.columns.items()}}
    if isinstance(labels, Texts):
        return {"texts": save(labels.utf8), "offsets": save(labels.offsets)}
    if isinstance(labels, Ragged):
        return {"ragged": written(labels.values, save), "offsets": save(labels.offsets)}
    return {"array": save(labels)}


def read(record: Mapping[str, Any], load: Callable[[str], Array]) -> Labels:
    """Read what `written` wrote; ``load`` opens an array by its name."""
    match record:
        case {"table": columns}:
            return Table({name: _column(column, load) for name, column in columns.items()})
        case _:
            return _column(record, load)


def _column(record: Mapping[str, Any], load: Callable[[str], Array]) -> Column:
    match record:
        case {"texts": utf8, "offsets": offsets}:
            return Texts(load(utf8), load(offsets))
        case {"ragged": values, "offsets": offsets}:
            inner = _column(values, load)
            assert not isinstance(inner, Ragged)
            return Ragged(inner, load(offsets))
    return load(record["array"])


def _offsets(lengths: Sequence[int]) -> Array:
    import numpy as np

    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _chosen(offsets: Array, rows: Rows) -> tuple[Any, Array]:
    """Return which values belong to the chosen samples, and the offsets of these."""
    import numpy as np

    indices = np.arange(len(offsets) - 1)[rows]
    lengths = np.diff(offsets)[indices]
    moved = _offsets(lengths.tolist())
    if isinstance(rows, slice) and rows.step in (None, 1) and len(indices):
        return slice(int(offsets[indices[0]]), int(offsets[indices[-1] + 1])), moved
    starts = np.repeat(offsets[:-1][indices] - moved[:-1], lengths)
    return (starts + np.arange(moved[-1])).astype(np.intp), moved
