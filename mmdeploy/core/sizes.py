"""Sizes that vary from sample to sample: their names, their bounds, and what lengths are worth trying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: The largest length of a size whose bounds nobody said.
UNBOUNDED = 2**31 - 1


@dataclass(frozen=True)
class Size:
    """A size that varies; all axes of one name have one length in a sample.

    Attributes:
        name: As the recipe calls it; of one that components make of others the tensor and the axis, and in parentheses
            the sizes that it is made of, such as ``frames_0(samples)``.
        min: Smallest length.
        max: Largest length.
        multiple_of: Lengths are multiples of it.
    """

    name: str
    min: int
    max: int
    multiple_of: int = 1

    @property
    def bounded(self) -> bool:
        """Whether somebody said how long it may be."""
        return self.max < UNBOUNDED

    @property
    def made(self) -> bool:
        """Whether components make it of others."""
        return "(" in self.name

    @property
    def origins(self) -> frozenset[str]:
        """The sizes of the recipe that it is made of: itself, where it is one."""
        made_of = self.name.partition("(")[2]
        return frozenset(made_of.removesuffix(")").split(", ") if made_of else [self.name])

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

        They are the smallest, the largest, typical ones, and two between, an odd one and a power of two, where there
        are such: a graph that was made at one length goes wrong at the other.

        Args:
            typical: Lengths of samples.
        """
        middle = self.nearest((self.min + self.max) / 2)
        odd = middle if (middle // self.multiple_of) % 2 else self.nearest(middle - self.multiple_of)
        even = self.nearest(self.multiple_of * 2 ** ((self.max // self.multiple_of).bit_length() - 1))
        return tuple(sorted({self.min, odd, even, self.max, *map(self.nearest, typical)}))

    @property
    def rule(self) -> dict[str, Any]:
        """JSON-able: what the embedded backends check."""
        return asdict(self)


def padding_advised(size: Size) -> str:
    """Say how a recipe serves a module that works at one length of a size only."""
    return f"let the ensemble pad requests: `pad_to: {size.max}` under sizes.{size.name}, and `mask` where it takes one"


Sizes = tuple["Size | None", ...]
#: Lengths by the name of their size.
Lengths = Mapping[str, int]


def sizes_from(entries: Sequence[Mapping[str, Any] | None]) -> Sizes:
    """Read what ``asdict`` made of sizes."""
    return tuple(None if entry is None else Size(**entry) for entry in entries)


def size_of(
    name: str,
    seen: Sequence[tuple[Lengths, int]],
    known: Mapping[str, Size],
    *,
    every: bool,
    origins: Iterable[str] = (),
) -> Size | None:
    """Return what the size of a computed axis is: one that is known, or one made of these.

    Args:
        name: What to call one that is made of others; their names are added.
        seen: Lengths of the known sizes, and how long the axis was at these.
        known: Sizes by name.
        every: Whether each size was tried from its smallest length to its largest, so that no axis is longer than seen.
        origins: Sizes of the recipe that it may be made of.
    """
    for candidate, size in known.items():
        if len({at.get(candidate) for at, _ in seen}) > 1 and all(at.get(candidate) == length for at, length in seen):
            return size
    lengths = [length for _, length in seen]
    return Size(f"{name}({', '.join(sorted(origins))})", min(lengths), max(lengths)) if every else None


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
