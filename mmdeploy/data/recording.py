"""Record what a data callable gives: called once, each sample checked as it comes, written once, to be memory-mapped.

At no time is more than one sample held, besides 16 bytes of digest, its shape and its label for each one seen. What is
written is described in `mmdeploy.data.sample_sets`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.contracts import Progress
from mmdeploy.core.errors import DataError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.labels import Labels, kind, written
from mmdeploy.core.strings import BYTES, nbytes, packed
from mmdeploy.data.calibration import CalibrationCheck
from mmdeploy.data.census import Census
from mmdeploy.data.contents import DIGESTS, INDEX, SetFacts, SetSize, digest_of
from mmdeploy.data.labels import stacked_labels
from mmdeploy.data.sample_sets import SeenSamples
from mmdeploy.data.samples import Feed, Prepare, Ranges, sample_digest, stream

_GIB = 2**30
#: Bytes of the header of an ``.npy`` file: room for any shape, so that it can be written when the shape is known.
_HEADER_BYTES = 1024


@dataclass(frozen=True)
class Request:
    """A set to record.

    Attributes:
        reference: The data callable.
        root: Folder of the recipe.
        specs: The ensemble's inputs.
        ranges: Smallest and largest value allowed, by input.
        limit: Stop after so many samples; None takes all.
        calibration: Whether it is the calibration set, which has no labels; those that it gives are passed over.
        for_ranges: Whether ranges are taken from a calibration set: what would ruin them is refused.
        unlike: Sets of which it may hold no sample.
        labels_for: What needs labels, for the message where there are none; None where they need not be.
        empty_hint: What to say where there are no samples.
        max_gib: Largest size on disk.
        prepare: Makes of what clients send what the model reads; both are recorded. None where they are the same.
        optional: What a sample may lack: inputs, and what is made of them.
        constant: What may have one value in a calibration set, besides masks as `mmdeploy.data.calibration` knows them.
    """

    reference: str
    root: Path
    specs: Sequence[TensorSpec]
    ranges: Ranges = field(default_factory=dict)
    limit: int | None = None
    calibration: bool = False
    for_ranges: bool = True
    unlike: Sequence[SeenSamples] = ()
    labels_for: str | None = None
    empty_hint: str | None = None
    max_gib: float = 8.0
    prepare: Prepare | None = None
    optional: Collection[str] = frozenset()
    constant: Collection[str] = frozenset()

    @property
    def sources(self) -> Sequence[TensorSpec]:
        """What the model reads."""
        return self.specs if self.prepare is None else self.prepare.sources

    @property
    def columns(self) -> Sequence[TensorSpec]:
        """What is recorded: what clients send, and what the model reads where that is made of it."""
        sent = {spec.name for spec in self.specs}
        return (*self.specs, *(spec for spec in self.sources if spec.name not in sent))


def record(request: Request, folder: Path, progress: Progress) -> dict[str, Any]:
    """Call a data callable and write its samples into an empty folder.

    Returns:
        JSON-able facts: ``samples``, ``labels`` (their kind), ``bytes``, and figures by input.

    Raises:
        DataError: Naming the sample and the input where one is bad; also when there are no samples or too many, or when
            only some have a label.
    """
    with ExitStack() as stack:
        recorder = _Recorder(request, folder, stack)
        samples = stream(
            request.reference,
            root=request.root,
            specs=request.specs,
            ranges=request.ranges,
            limit=request.limit,
            prepare=request.prepare,
            optional=request.optional,
        )
        for feed, label in samples:
            recorder.add(feed, label)
            progress(recorder.count, request.limit, "samples recorded")
        return recorder.finish()


class _Recorder:
    """Writes the samples of one set."""

    def __init__(self, request: Request, folder: Path, stack: ExitStack) -> None:
        self._request, self._folder = request, folder
        self._columns = {
            spec.name: _ColumnFile(folder, f"input-{number}", spec, stack)
            for number, spec in enumerate(request.columns)
        }  # fmt: skip
        self._censuses = {spec.name: Census() for spec in request.columns}
        held_to_it = request.calibration and request.for_ranges
        self._check = (
            CalibrationCheck(request.reference, request.sources, request.ranges, request.constant)
            if held_to_it
            else None
        )
        self._digests, self._labels = bytearray(), list[Any]()
        self._bytes = 0
        self.count = 0

    def add(self, feed: Feed, label: Any) -> None:
        request = self._request
        needed = [spec.name for spec in request.columns if spec.name not in request.optional]
        if missing := [name for name in needed if name not in feed]:
            raise DataError(
                f"{request.reference}: sample {self.count} has no input {missing[0]!r}",
                hint="only training samples may hold what is made of what clients send in its place",
            )
        read = {spec.name: feed[spec.name] for spec in request.sources if spec.name in feed}
        digest = sample_digest(read)
        if self._check is not None:
            self._check.sample(read, digest, self.count)
        for other in request.unlike:
            _refuse_shared(request.reference, self.count, digest, other)
        if not request.calibration:
            self._add_label(label)
        for name, array in feed.items():
            self._censuses[name].add(array)
            self._columns[name].add(array)
            self._grow(nbytes(array))
        for name in self._columns.keys() - feed.keys():
            self._columns[name].leave_out()
        self._digests += digest
        self.count += 1

    def finish(self) -> dict[str, Any]:
        """Check the set as a whole and write what is left of it."""
        request = self._request
        if not self.count:
            raise DataError(f"{request.reference} gives no samples", hint=request.empty_hint)
        if self._check is not None:
            self._check.whole({spec.name: self._censuses[spec.name] for spec in request.sources}, self.count)
        labels = self._stacked_labels()
        files: list[str] = []
        labels_record = None if labels is None else written(labels, lambda array: self._save(array, files))
        parts = [json.dumps(labels_record).encode(), *((self._folder / name).read_bytes() for name in files)]
        index = {
            "count": self.count,
            "inputs": {name: column.finish() for name, column in self._columns.items()},
            "labels": labels_record,
            "content": digest_of(bytes(self._digests), *(parts if labels is not None else ())),
        }
        (self._folder / DIGESTS).write_bytes(self._digests)
        (self._folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        return {
            **as_metadata(SetSize(self.count)),
            "labels": None if labels is None else kind(labels),
            "bytes": self._bytes,
            "inputs": {name: census.to_metadata() for name, census in self._censuses.items()},
            **as_metadata(SetFacts(str(index["content"]))),
        }

    def _add_label(self, label: Any) -> None:
        if self._labels and (label is None) != (self._labels[0] is None):
            odd = "has no label, but sample 0 has" if label is None else "has a label, but sample 0 has none"
            raise DataError(f"{self._request.reference}: sample {self.count} {odd}")
        self._labels.append(label)

    def _stacked_labels(self) -> Labels | None:
        request = self._request
        if self._labels and self._labels[0] is not None:
            return stacked_labels(self._labels, request.reference)
        if request.labels_for is not None:
            raise DataError(
                f"{request.labels_for} needs labels, but {request.reference} gives none",
                hint="yield (feed, label) for each sample, or take the gate out of the recipe",
            )
        return None

    def _save(self, array: Array, files: list[str]) -> str:
        self._grow(array.nbytes)
        files.append(f"labels-{len(files)}.npy")
        np.save(self._folder / files[-1], array, allow_pickle=False)
        return files[-1]

    def _grow(self, more: int) -> None:
        self._bytes += more
        request = self._request
        if self._bytes > request.max_gib * _GIB:
            raise DataError(
                f"{request.reference} gives more than {request.max_gib:g} GiB: stopped at sample {self.count}",
                hint="give fewer or smaller samples (UINT8 pixels take a quarter of FP32's), or raise data.max_gib",
            )


class _ColumnFile:
    """The file of one input; its header is written last, when it is known whether all samples are alike."""

    def __init__(self, folder: Path, name: str, spec: TensorSpec, stack: ExitStack) -> None:
        self._folder, self._name, self._strings = folder, name, spec.dtype == BYTES
        self._dtype = np.dtype(np.uint8) if self._strings else spec.numpy_dtype
        self._bytes, self._axes = 0, len(spec.shape)
        self._stream: BinaryIO = stack.enter_context((folder / f"{name}.npy").open("wb"))
        self._stream.write(bytes(_HEADER_BYTES))
        self._shapes: list[tuple[int, ...]] = []

    def add(self, array: Array) -> None:
        self._shapes.append(array.shape)
        content = packed(array) if self._strings else np.ascontiguousarray(array).tobytes()
        self._stream.write(content)
        self._bytes += len(content)

    def leave_out(self) -> None:
        """Note a sample that lacks the input: all its sizes are -1, see `mmdeploy.data.columns`."""
        self._shapes.append((-1,) * self._axes)

    def finish(self) -> dict[str, str]:
        """Write the header; return what the index says of the input."""
        lacking = any(-1 in shape for shape in self._shapes)
        alike = len(set(self._shapes)) == 1 and not self._strings and not lacking
        total = self._bytes // self._dtype.itemsize
        self._stream.seek(0)
        self._stream.write(_npy_header(self._dtype, (len(self._shapes), *self._shapes[0]) if alike else (total,)))
        self._stream.close()
        entry = {"file": f"{self._name}.npy"} | ({"holds": BYTES} if self._strings else {})
        if not alike:
            entry["shapes"] = f"{self._name}-shapes.npy"
            np.save(self._folder / entry["shapes"], np.array(self._shapes, dtype=np.int64), allow_pickle=False)
        return entry


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header of an ``.npy`` file (NEP 1, version 1.0) of `_HEADER_BYTES`."""
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    magic = b"\x93NUMPY\x01\x00"
    length = _HEADER_BYTES - len(magic) - 2
    return bytes(magic + struct.pack("<H", length) + f"{described!r}".ljust(length - 1).encode("ascii") + b"\n")


def _refuse_shared(reference: str, index: int, digest: bytes, other: SeenSamples) -> None:
    twin = other.find(digest)
    if twin is not None:
        raise DataError(
            f"{reference}: sample {index} is also sample {twin} of {other.reference}",
            hint="what is chosen by samples that the gates judge on looks better than it is: let the splits share none",
        )
