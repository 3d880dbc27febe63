"""What an option of a sweep may be: choices, or the numbers of a range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

#: Figures of a number from a range: enough to search by, and short in a recipe.
_DIGITS = 4


@dataclass(frozen=True)
class Choices:
    """Values to choose from, each a text of YAML."""

    texts: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.texts)

    @property
    def corners(self) -> tuple[str, ...]:
        """What is checked before anything runs."""
        return self.texts

    def levels(self, count: int) -> tuple[str, ...]:
        """Return the values of a grid: all of them, whatever is asked."""
        return self.texts

    @property
    def size(self) -> int | None:
        """How many values there are."""
        return len(self.texts)

    def text_of(self, value: Any) -> str | None:
        """Return the choice that stands for a plain value of a recipe; None where there is none."""
        import yaml

        return next((text for text in self.texts if yaml.safe_load(text) == value), None)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both of them included.

    Attributes:
        low: The smallest.
        high: The largest.
        step: Distance between numbers; None for any number.
        log: Whether orders of magnitude are searched alike.
        integral: Whether only whole numbers are meant.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    integral: bool = False

    def __str__(self) -> str:
        step = "" if self.step is None or (self.integral and self.step == 1) else f":{self.step:g}"
        return f"{'log:' if self.log else ''}{self.text(self.low)}..{self.text(self.high)}{step}"

    def text(self, number: float) -> str:
        """Write a number as a recipe has it: short, and never outside."""
        if self.integral:
            return str(round(number))
        short = float(f"{number:.{_DIGITS}g}")
        return repr(min(max(short, self.low), self.high))

    @property
    def corners(self) -> tuple[str, ...]:
        """What is checked before anything runs."""
        return (self.text(self.low), self.text(self.high))

    @property
    def size(self) -> int | None:
        """How many values there are; None where they are no whole numbers and have no step."""
        if self.step is None:
            return None
        return int((Decimal(repr(self.high)) - Decimal(repr(self.low))) / Decimal(repr(self.step))) + 1

    def levels(self, count: int) -> tuple[str, ...]:
        """Return the values of a grid: all of them where there are no more than ``count``, else so many, spread."""
        if self.size is not None and self.size <= count:
            return tuple(dict.fromkeys(self._at(number) for number in range(self.size)))
        shares = [number / max(count - 1, 1) for number in range(count)]
        return tuple(dict.fromkeys(self._between(share) for share in shares))

    def text_of(self, value: Any) -> str | None:
        """Return the text of a plain value of a recipe that lies in the range; None for any other."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return None
        return self.text(value)

    def _at(self, number: int) -> str:
        assert self.step is not None
        return self.text(float(Decimal(repr(self.low)) + number * Decimal(repr(self.step))))

    def _between(self, share: float) -> str:
        if self.log:
            return self.text(math.exp(math.log(self.low) + share * math.log(self.high / self.low)))
        if self.size is not None:
            return self._at(round(share * (self.size - 1)))
        return self.text(self.low + share * (self.high - self.low))
