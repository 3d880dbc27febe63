"""What would ruin the ranges of a calibration set, and is refused.

Quantizers take whatever they are given: constants, zeros, one sample repeated. Masks, which are Boolean inputs and
integers with a declared range within [0, 1], may be constant.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import DataError
from mmdeploy.data.census import Census
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.data.samples import Feed, Ranges


class CalibrationCheck:
    """Refuses samples that are all zero or repeated, one at a time, and at the end inputs that have one value only."""

    def __init__(
        self, reference: str, specs: Sequence[TensorSpec], ranges: Ranges, constant: Collection[str] = ()
    ) -> None:
        """Take the data callable, for messages, what it declares of its inputs, and what may be constant besides."""
        self._reference, self._masks = reference, masks(specs, ranges) | {*constant}
        self._first_seen: dict[bytes, int] = {}

    def sample(self, feed: Feed, digest: bytes, index: int) -> None:
        """Look at a sample.

        Raises:
            DataError: If an input of more than one element is zero in all of it, or it repeats an earlier sample.
        """
        where = f"{self._reference}: sample {index}"
        for name, array in feed.items():
            if array.dtype != object and array.size > 1 and name not in self._masks and not array.any():
                raise DataError(
                    f"{where}, input {name!r} is all zero",
                    hint="silence, a black image or padding teaches the ranges nothing: leave the sample out",
                )
        earlier = self._first_seen.setdefault(digest, index)
        if earlier != index:
            raise DataError(
                f"{where} repeats sample {earlier}: all inputs are identical",
                hint="repeated samples weigh the ranges towards themselves; give each sample once",
            )

    def whole(self, censuses: Mapping[str, Census], samples: int) -> None:
        """Look at the set.

        Raises:
            DataError: If an input has no elements at all, or one value everywhere.
        """
        for name, census in censuses.items():
            if not census.elements:
                raise DataError(f"{self._reference}: input {name!r} has no elements in any sample")
            if name not in self._masks and census.minimum == census.maximum:
                raise _constant(self._reference, name, census.minimum, samples)


def masks(specs: Sequence[TensorSpec], ranges: Ranges) -> set[str]:
    """Return the inputs that may be constant."""
    return {spec.name for spec in specs if _is_mask(spec, ranges.get(spec.name, (-math.inf, math.inf)))}


def refuse_constant(samples: SampleSet, allowed: set[str]) -> None:
    """Refuse the first samples of a set in which an input has one value: the whole set may vary where they do not.

    Raises:
        DataError: Naming the input.
    """
    for name in samples.names:
        values = samples.values(name)
        if name not in allowed and values.size and values.min() == values.max():
            raise _constant(samples.reference, name, float(values[0]), samples.count)


def _is_mask(spec: TensorSpec, span: tuple[float, float]) -> bool:
    return spec.dtype == "BOOL" or (spec.numpy_dtype.kind in "iu" and span[0] >= 0 and span[1] <= 1)


def _constant(reference: str, name: str, value: float, samples: int) -> DataError:
    count = f"all {samples} samples" if samples > 1 else "its only sample"
    return DataError(
        f"{reference}: input {name!r} is {value:g} everywhere in {count}",
        hint="calibrate on data like that of production: a constant gives a range of nothing",
    )
