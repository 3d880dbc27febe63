"""The splits that training reads: shuffled, in batches, and with no sample that something is later judged on.

A split that fits in memory is read once and shuffled as a whole. A larger one, or one whose callable takes ``epoch``
(fresh augmentation in each), is read in each epoch and shuffled through a buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels
from mmdeploy.data import samples as data
from mmdeploy.data.labels import stacked_labels
from mmdeploy.data.sample_sets import SeenSamples

Sample: TypeAlias = tuple[data.Feed, Any]
Batch: TypeAlias = "tuple[data.Feed, Labels | None]"

_KEPT_BYTES = 256 * 2**20
_BUFFER_BYTES = 64 * 2**20


@dataclass
class Split:
    """A split that training reads.

    Attributes:
        reference: The data callable.
        root: Folder of the recipe.
        specs: The ensemble's inputs.
        ranges: Smallest and largest value allowed, by input.
        forbidden: Splits of which it may hold no sample.
        prepare: Makes of what clients send what the model reads; None where that is the same.
        kept_bytes: Up to this size it is kept in memory.
        buffer_bytes: Size of the shuffle buffer where it is not.
    """

    reference: str
    root: Path
    specs: Sequence[TensorSpec]
    ranges: data.Ranges | None = None
    forbidden: Sequence[SeenSamples] = ()
    prepare: data.Prepare | None = None
    kept_bytes: int = _KEPT_BYTES
    buffer_bytes: int = _BUFFER_BYTES
    _kept: list[Sample] | None = None
    _too_large: bool = field(default=False)
    #: Batches of an epoch by their size, where samples are not alike.
    _ragged_batches: dict[int, int] = field(default_factory=dict)

    def samples(self, epoch: int) -> Iterator[Sample]:
        """Yield the samples of an epoch in the callable's order.

        Raises:
            DataError: If the callable fails, or a sample is bad or forbidden.
        """
        stream = data.stream(
            self.reference, root=self.root, specs=self.specs, ranges=self.ranges, epoch=epoch, prepare=self.prepare
        )
        for index, (sent, label) in enumerate(stream):
            feed = sent if self.prepare is None else {spec.name: sent[spec.name] for spec in self.prepare.sources}
            digest = data.sample_digest(feed) if self.forbidden else b""
            for other in self.forbidden:
                self._refuse_shared(digest, index, other)
            yield feed, label

    def batches(self, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield the shuffled batches of an epoch; the last is left out when it is smaller and not the only one.

        Samples of a batch are alike. Where they differ in shape, what is left of each shape makes a batch of its own,
        however small, and every epoch has as many batches as the first that was read: where augmentation changes
        shapes, the epoch's samples come again.

        The same epoch and seed give the same batches, whatever was read before.

        Raises:
            DataError: As `samples`; and when only some samples have a label.
        """
        rng = np.random.default_rng([seed, epoch])
        given, wanted = 0, self._ragged_batches.get(batch_size)
        while wanted is None or given < wanted:
            groups = _Groups(batch_size)
            for group in groups.of(self._shuffled(epoch, rng)):
                if given != wanted:
                    given += 1
                    yield self._batch(group)
            if wanted is None and groups.ragged:
                self._ragged_batches[batch_size] = given
            if not groups.ragged:
                return
            wanted = self._ragged_batches[batch_size]

    def _shuffled(self, epoch: int, rng: np.random.Generator) -> Iterator[Sample]:
        kept = self._in_memory()
        if kept is not None:
            return (kept[index] for index in rng.permutation(len(kept)))
        return _shuffled(self.samples(epoch), rng, self.buffer_bytes)

    def _in_memory(self) -> list[Sample] | None:
        """Return all samples if they are the same in each epoch and fit; None otherwise."""
        if self._kept is None and not self._too_large:
            self._too_large = data.takes_epoch(self.reference, self.root)
            kept, size = list[Sample](), 0
            for feed, label in () if self._too_large else self.samples(0):
                kept.append((feed, label))
                size += sum(array.nbytes for array in feed.values())
                if size > self.kept_bytes:
                    self._too_large = True
                    break
            self._kept = None if self._too_large else kept
        return self._kept

    def _batch(self, group: Sequence[Sample]) -> Batch:
        feeds, labels = [feed for feed, _ in group], [label for _, label in group]
        unlabelled = [label is None for label in labels]
        if any(unlabelled) and not all(unlabelled):
            raise DataError(f"{self.reference}: some samples have a label and others have none")
        together = {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]}
        return together, None if unlabelled[0] else stacked_labels(labels, self.reference)

    def _refuse_shared(self, digest: bytes, index: int, other: SeenSamples) -> None:
        twin = other.find(digest)
        if twin is not None:
            raise DataError(
                f"{self.reference}: sample {index} is also sample {twin} of {other.reference}",
                hint="a sample that was learned from, or chosen by, proves nothing where the result is judged: "
                "let the splits share none",
            )


class _Groups:
    """Cuts samples into batches of samples that are alike.

    Attributes:
        ragged: Whether samples of several shapes came.
    """

    def __init__(self, size: int) -> None:
        self._size, self.ragged = size, False

    def of(self, samples: Iterator[Sample]) -> Iterator[list[Sample]]:
        """Yield a batch as soon as it is full; then what is left, of samples that are all alike only if it is all."""
        waiting: dict[tuple[Any, ...], list[Sample]] = {}
        full = 0
        for sample in samples:
            group = waiting.setdefault(tuple((name, array.shape) for name, array in sample[0].items()), [])
            self.ragged = len(waiting) > 1
            group.append(sample)
            if len(group) == self._size:
                full += 1
                yield group.copy()
                group.clear()
        if self.ragged or not full:
            yield from (group for group in waiting.values() if group)


def _shuffled(samples: Iterator[Sample], rng: np.random.Generator, buffer_bytes: int) -> Iterator[Sample]:
    """Yield samples in random order through a buffer: each comes at random among those that wait with it."""
    waiting: list[Sample] = []
    size = 0
    for sample in samples:
        if size < buffer_bytes:
            waiting.append(sample)
            size += sum(array.nbytes for array in sample[0].values())
            continue
        place = int(rng.integers(len(waiting)))
        yield waiting[place]
        waiting[place] = sample
    for place in rng.permutation(len(waiting)):
        yield waiting[place]
