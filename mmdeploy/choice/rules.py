"""Which candidate ships, given what was measured: pure functions.

The *reference* is the simplest candidate that is not compressed. Another is *eligible* when it is surely faster than
the reference (the whole interval of the ratio lies below 1) and keeps the accuracy budget. The fastest eligible one
*leads*, each pair compared over the rounds that both were timed in; every eligible one whose ratio to the leader has 1
in its interval, and that took no more than `NEAR` longer, is tied with it, and of those the simplest ships. So what
ships is never slower than the reference, and complexity is only taken where it pays.

Timing ends where it would change nothing that matters: each other candidate is surely slower than the leader, or its
ratio to it is known to within `EQUAL_SHARE`. What is far behind from the first rounds on (`outpaced`) leaves at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmdeploy.scoring.metrics import SLACK, Interval

#: A gain for which no more time is spent on timing, and how well a ratio is known that is not timed any further.
EQUAL_SHARE = 0.05
#: How much longer than the leader something simpler may have taken to ship in its place.
NEAR = 0.02
#: A candidate whose fastest block took so many times the slowest of another one is out after the first few rounds.
FAR_BEHIND = 1.3
#: A reference is not timed any further when everything that may ship takes surely less than this share of its time.
FAR = 0.5


class Comparisons(Protocol):
    """Ratios of latencies; `measure.Timings` is one."""

    def ratio(self, label: str, reference: str) -> float:
        """Return latency over latency; NaN where it is not known."""

    def interval(self, label: str, reference: str) -> Interval:
        """Return the interval of `ratio`."""


@dataclass(frozen=True)
class Entrant:
    """A candidate as the rules see it.

    Attributes:
        label: Its name.
        compressed: Whether the component was pruned or quantized.
        simplicity: Rank; lower is simpler.
        failed: Why it cannot ship at all, or None.
        drop: Loss of the metric against the original; None while it is not known.
    """

    label: str
    compressed: bool
    simplicity: int
    failed: str | None = None
    drop: float | None = None

    @property
    def rank(self) -> tuple[bool, int]:
        """What ties are broken by: uncompressed first, then the simpler."""
        return (self.compressed, self.simplicity)


@dataclass(frozen=True)
class Ruling:
    """What the rules came to.

    Attributes:
        winner: What ships.
        reference: What everything is compared with.
        leader: The fastest that could ship; differs from ``winner`` in a tie.
    """

    winner: str
    reference: str
    leader: str


def over_budget(entrant: Entrant, max_drop: float | None) -> bool:
    """Say whether a candidate is known to lose more than the budget allows; NaN does."""
    return max_drop is not None and entrant.drop is not None and not entrant.drop <= max_drop + SLACK


def choose(entrants: Sequence[Entrant], compared: Comparisons, max_drop: float | None) -> Ruling | None:
    """Apply the rules; a candidate whose drop is not known counts as one that keeps the budget.

    Where every candidate is compressed, the budget binds the reference too; should none keep it, the one that loses
    least ships, and the gates judge it.

    Args:
        entrants: The candidates.
        compared: What was measured.
        max_drop: Budget; None for none.

    Returns:
        None when every candidate has failed.
    """
    alive = [entrant for entrant in entrants if entrant.failed is None]
    accurate = [entrant for entrant in alive if not over_budget(entrant, max_drop)]
    if uncompressed := [entrant for entrant in alive if not entrant.compressed]:
        reference = min(uncompressed, key=lambda entrant: entrant.rank)
    elif alive:
        accurate = accurate or [min(alive, key=_drop_or_worst)]
        reference = min(accurate, key=lambda entrant: entrant.rank)
    else:
        return None
    faster = [one for one in accurate if one is not reference and is_faster(one.label, reference.label, compared)]
    eligible = [reference, *faster]
    leader = min(eligible, key=lambda one: 1.0 if one is reference else compared.ratio(one.label, reference.label))
    for one in faster:  # the reference may have been out of the race before they were
        if one is not leader and compared.ratio(one.label, leader.label) < 1.0:
            leader = one
    tied = [one for one in eligible if one is leader or _is_tied(one.label, leader.label, compared)]
    winner = min(tied, key=lambda entrant: entrant.rank)
    return Ruling(winner.label, reference.label, leader.label)


def is_faster(label: str, reference: str, compared: Comparisons) -> bool:
    """Say whether the whole interval of the ratio lies below 1."""
    return compared.interval(label, reference)[1] < 1.0 and not math.isnan(compared.ratio(label, reference))


def _is_tied(label: str, leader: str, compared: Comparisons) -> bool:
    """Say whether the interval of the ratio reaches 1, and the ratio is no more than `NEAR` above."""
    return compared.interval(label, leader)[0] <= 1.0 and not compared.ratio(label, leader) > 1.0 + NEAR


def outpaced(entrants: Sequence[Entrant], blocks: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the candidates that are far behind from the first rounds on: an order, without an interval.

    Of two that are equally fast, all of four blocks of one are slower than all of the other's once in 70; by a factor
    besides, never. The reference is not among them: what the others bring is told by it.

    Args:
        entrants: The candidates.
        blocks: By label, what a request took in each block, in milliseconds.
    """
    alive = [one for one in entrants if one.failed is None and blocks.get(one.label)]
    if not alive:
        return []
    bound = FAR_BEHIND * min(max(blocks[one.label]) for one in alive)
    reference = min(alive, key=lambda one: one.rank)
    return [one.label for one in alive if one is not reference and min(blocks[one.label]) > bound]


def undecided(entrants: Sequence[Entrant], compared: Comparisons, max_drop: float | None) -> list[str]:
    """Return the candidates to go on timing: those that may yet be faster than the leader, it, and the reference.

    The reference only while one of them may be less than twice as fast (`FAR`): it takes most of the time of a round.

    Returns:
        Nothing when the choice is clear.
    """
    choice = choose(entrants, compared, max_drop)
    if choice is None:
        return []
    leader = next(one for one in entrants if one.label == choice.leader)
    open_labels = [
        one.label
        for one in entrants
        if one.failed is None
        and one is not leader
        and not over_budget(one, max_drop)
        and not _settled(compared.interval(one.label, leader.label), simpler=one.rank < leader.rank)
    ]
    if not open_labels:
        return []
    racing = dict.fromkeys([choice.reference, choice.leader, *open_labels])
    others = [label for label in racing if label != choice.reference]
    needed = choice.reference in (choice.leader, *open_labels)
    far = all(compared.interval(label, choice.reference)[1] < FAR for label in others)
    return others if far and not needed else list(racing)


def _settled(interval: Interval, *, simpler: bool) -> bool:
    """Say whether it is clear what comes of a candidate, from its ratio to the leader.

    It is slower; or it is simpler and so little slower that it ships; or it is not simpler and could be only so little
    faster that it would not be worth it; or its ratio is known well enough to decide by it.
    """
    low, high = interval
    enough = high <= 1.0 + EQUAL_SHARE if simpler else low >= 1.0 - EQUAL_SHARE
    return low > 1.0 or enough or high - low <= 2 * EQUAL_SHARE


def _drop_or_worst(entrant: Entrant) -> tuple[float, tuple[bool, int]]:
    drop = entrant.drop
    return (math.inf if drop is None or math.isnan(drop) else drop, entrant.rank)
