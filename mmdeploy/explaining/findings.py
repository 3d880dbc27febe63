"""What an explanation holds, and what its figures allow to be said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: What is said of a share that may be nothing.
OPEN = "cannot be told from none"


@dataclass(frozen=True)
class Share:
    """What one stage, component or layer group has to do with it.

    Attributes:
        what: Its name.
        value: The figure; None where it was not measured.
        interval: Its confidence interval, or None where none is known.
        told: What the figure says.
    """

    what: str
    value: float | None
    interval: tuple[float, float] | None = None
    told: str = ""


@dataclass(frozen=True)
class Section:
    """One way to cut it.

    Attributes:
        title: How, and in which unit.
        shares: In the order of the chain, or the largest first.
        note: What a reader must know; empty where there is nothing.
    """

    title: str
    shares: tuple[Share, ...]
    note: str = ""


@dataclass(frozen=True)
class Explanation:
    """Where it went.

    Attributes:
        gate: The gate, as its report names it.
        verdict: What it came to.
        missed: Its checks that did not pass, in words.
        sections: The figures.
        conclusions: What they say, a sentence each.
        not_measured: What was not measured and why, a sentence each.
    """

    gate: str
    verdict: str
    missed: tuple[str, ...]
    sections: tuple[Section, ...]
    conclusions: tuple[str, ...]
    not_measured: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return its fields as JSON values."""
        return asdict(self)


def loss(what: str, value: float | None, interval: tuple[float, float] | None) -> Share:
    """Return a share that is a loss, and say whether it is one."""
    if value is None:
        return Share(what, None, None, "not measured")
    if interval is None or not all(map(math.isfinite, interval)):
        return Share(what, value, None, "no interval is known: it may be chance")
    told = "loses" if interval[0] > 0 else "gains" if interval[1] < 0 else OPEN
    return Share(what, value, interval, told)


def concluded(shares: Sequence[Share], noun: str, *, smallest: float | None = None) -> str:
    """Say which of several shares are to blame, or that it cannot be told.

    Args:
        shares: Losses.
        noun: What they are, such as ``component``.
        smallest: The smallest change that the samples show, where it is known.
    """
    blamed = sorted((one for one in shares if one.told == "loses"), key=lambda one: -(one.value or 0.0))
    if not blamed:
        limit = "" if smallest is None else f"; they show changes of {smallest:.3g} and more"
        return f"no {noun} by itself surely loses anything on these samples{limit}"
    first, *rest = blamed
    told = f"{first.what} loses most for sure"
    close = [one.what for one in rest if _overlap(one.interval, first.interval)]
    if close:
        told = f"{', '.join([first.what, *close])} surely lose, and which of them most cannot be told"
    open_ones = [one.what for one in shares if one.told == OPEN]
    return told + (f"; of {', '.join(open_ones)} it cannot be told whether they lose anything" if open_ones else "")


def _overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]
