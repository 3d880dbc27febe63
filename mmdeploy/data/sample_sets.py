"""Recorded sets of samples, memory-mapped: as many readers as there are share one copy.

A set is a folder with `contents.INDEX`, an ``.npy`` file an input, digests of the samples, and its labels. Samples of
one shape are stacked along axis 0. Where shapes differ, the file holds all values one after the other, and the index
names a second file with the shape of each sample; so does one of strings, which are written as Triton sends them, and
read into memory. Of numbers, either way a batch whose samples are alike is a piece of the file:
nothing is copied before somebody writes into it, and what is written stays in memory.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.labels import Labels, read
from mmdeploy.core.samples import Samples
from mmdeploy.core.strings import unpacked
from mmdeploy.data.columns import cut, values_of
from mmdeploy.data.contents import DIGEST_BYTES, DIGESTS, INDEX
from mmdeploy.data.samples import Feed


@dataclass(frozen=True)
class SampleSet:
    """The samples of a set, or the first of them.

    Attributes:
        reference: The data callable that gave them, for messages.
        count: Number of samples.
        labels: One a sample, or None when the set has none.
    """

    reference: str
    count: int
    labels: Labels | None
    _columns: Mapping[str, _Column]
    _digests: bytes

    @classmethod
    def open(cls, folder: Path, reference: str, only: Collection[str] | None = None) -> SampleSet:
        """Open what `mmdeploy.data.recording.record` wrote; of its tensors some, or all."""
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        count = int(index["count"])

        def load(name: str) -> Array:
            return np.asarray(np.load(folder / name, mmap_mode="c", allow_pickle=False))

        def values(entry: Mapping[str, str]) -> Array:
            return unpacked(load(entry["file"]).tobytes(), (-1,)) if "holds" in entry else load(entry["file"])

        columns = {
            name: _Column.of(values(entry), load(entry["shapes"]) if "shapes" in entry else None)
            for name, entry in index["inputs"].items()
            if only is None or name in only
        }
        labels = None if index["labels"] is None else read(index["labels"], load)
        return cls(reference, count, labels, columns, (folder / DIGESTS).read_bytes())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self._columns)

    @property
    def seen(self) -> SeenSamples:
        """The samples by digest, to be looked for in other sets."""
        return SeenSamples(self.reference, self._digests[: self.count * DIGEST_BYTES])

    def first(self, samples: int | None) -> SampleSet:
        """Return the first samples; all for None, or where there are fewer."""
        if samples is None or samples >= self.count:
            return self
        return replace(self, count=samples, labels=None if self.labels is None else self.labels[:samples])

    def values(self, name: str) -> Array:
        """Return the values of an input in all samples, one after the other."""
        column = self._columns[name]
        return column.flat[: column.offsets[self.count]]

    def feeds(self) -> Samples:
        """Return the samples as columns."""
        return self._feeds

    def batches(self, size: int) -> Iterator[Feed]:
        """Yield the samples in batches of up to a size, each of samples that are alike."""
        for rows in self._feeds.batches(size):
            yield self._feeds.take(rows)

    @functools.cached_property
    def _feeds(self) -> Samples:
        return Samples({name: column.first(self.count) for name, column in self._columns.items()})

    def batch(self, start: int, stop: int) -> Feed:
        """Return some samples, one after the other in the set, stacked along axis 0.

        Raises:
            ValueError: If their shapes differ.
        """
        return self._feeds.take(slice(start, stop))


@dataclass(frozen=True)
class _Column:
    """One input of all samples.

    Attributes:
        flat: All values, one after the other.
        shapes: [samples, axes].
        offsets: Where each sample begins in ``flat``, and at last where the last ends.
    """

    flat: Array
    shapes: Array
    offsets: Array

    @classmethod
    def of(cls, array: Array, shapes: Array | None) -> _Column:
        """Take a file's array, and the shape of each sample where they differ."""
        if shapes is None:
            sizes = np.array(array.shape[1:], dtype=np.int64)
            shapes = np.broadcast_to(sizes, (len(array), len(sizes)))
        offsets = np.concatenate([[0], np.cumsum(values_of(shapes))])
        return cls(array.reshape(-1), shapes, offsets)

    def first(self, count: int) -> Array:
        """Return the first samples as a column."""
        return cut(self.flat[: self.offsets[count]], self.shapes[:count])


class SeenSamples:
    """The samples of a set by digest, to be asked whether a sample is among them.

    Digests are 8 bytes here: of two sets with a million samples each, two samples look equal by chance once in ten
    million runs. Samples count as equal when all their inputs are, to the bit.
    """

    def __init__(self, reference: str, digests: bytes) -> None:
        """Take the digests of a set.

        Args:
            reference: Its data callable, for messages.
            digests: `DIGEST_BYTES` a sample, in order.
        """
        self.reference = reference
        numbers = np.frombuffer(digests, "<u8")[:: DIGEST_BYTES // 8]
        self._order = np.argsort(numbers, kind="stable")
        self._numbers = numbers[self._order]

    def shared_with(self, other: SeenSamples) -> int:
        """Return how many of these samples are in another set too."""
        return int(np.isin(self._numbers, other._numbers).sum())

    def find(self, digest: bytes) -> int | None:
        """Return the index of the first sample with a digest; None when there is none."""
        number = np.frombuffer(digest, "<u8", count=1)[0]
        place = int(np.searchsorted(self._numbers, number))
        found = place < len(self._numbers) and self._numbers[place] == number
        return int(self._order[place]) if found else None
