"""Sizes that vary from sample to sample: their names, their bounds, and what lengths are worth trying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """A size that varies; all axes of one name have one length in a sample.

    Attributes:
        name: As the recipe calls it; of one that a component makes of others a formula of them, such as
            ``(frames - 1)//2 + 1``.
        min: Smallest length.
        max: Largest length.
        multiple_of: Lengths are multiples of it.
    """

    name: str
    min: int
    max: int
    multiple_of: int = 1

    def wrong(self, length: int) -> str | None:
        """Say why a length is none of this size; None where it is one."""
        if not self.min <= length <= self.max:
            return f"{length}, outside [{self.min}, {self.max}] of the size {self.name!r}"
        if length % self.multiple_of:
            return f"{length}, no multiple of {self.multiple_of}, as the size {self.name!r} must be"
        return None

    def nearest(self, length: float) -> int:
        """Return the length of this size that is nearest to a number, the larger of two."""
        steps = int(length / self.multiple_of + 0.5)
        return min(max(steps * self.multiple_of, self.min), self.max)

    def tried(self, typical: Iterable[int] = ()) -> tuple[int, ...]:
        """Return lengths that tell whether all of this size work, ascending.

        They are the smallest, the largest, typical ones, and one between that is odd where there is one: halving and
        pooling go wrong there first.

        Args:
            typical: Lengths of samples.
        """
        middle = self.nearest((self.min + self.max) / 2)
        odd = middle if (middle // self.multiple_of) % 2 else self.nearest(middle - self.multiple_of)
        return tuple(sorted({self.min, odd, self.max, *map(self.nearest, typical)}))

    @property
    def rule(self) -> dict[str, Any]:
        """JSON-able: what the embedded backends check."""
        return asdict(self)


Sizes = tuple["Size | None", ...]


def sizes_from(entries: Sequence[Mapping[str, Any] | None]) -> Sizes:
    """Read what ``asdict`` made of sizes."""
    return tuple(None if entry is None else Size(**entry) for entry in entries)


def lengths_problem(shapes: Mapping[str, Sequence[int]], sizes: Mapping[str, Sizes]) -> str | None:
    """Say what is wrong with the lengths of one sample; None where they are right.

    Args:
        shapes: Shape of each tensor, the batch left out, of the declared rank.
        sizes: The sizes of its axes, by tensor; tensors that are not in ``shapes`` are passed over.
    """
    found: dict[str, tuple[int, str]] = {}
    for tensor, named in sizes.items():
        for axis, size in enumerate(named):
            if size is None or tensor not in shapes:
                continue
            length = int(shapes[tensor][axis])
            if wrong := size.wrong(length):
                return f"input {tensor!r}: a length of {wrong} (axis {axis})"
            other, where = found.setdefault(size.name, (length, tensor))
            if other != length:
                return (
                    f"input {tensor!r} is {length} long where {where!r} is {other}: both have the size {size.name!r}, "
                    "which is one length in a request"
                )
    return None
