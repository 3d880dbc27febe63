"""What one way of serving wins over another: the same clients ask both in turns, for a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.scoring import looks, served_figures
from mmdeploy.scoring.load import MIN_ROUNDS, LoadOptions, Measurement, SideBySide

if TYPE_CHECKING:
    from mmdeploy.core.contracts import Array, Evidence

_SECONDS, _MORE_SECONDS = 4.0, 8.0
#: The longest that one look takes.
MOST_SECONDS = 12.0
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """How many times as fast one way to serve is as another.

    Attributes:
        ratio: With its interval; None where it was not measured.
        requests: To each side.
        why: Why it was not measured.
    """

    ratio: served_figures.Estimate | None
    requests: int = 0
    why: str = ""

    @property
    def told_apart(self) -> bool:
        """Whether noise does not explain the difference."""
        return self.ratio is not None and not self.ratio.interval[0] <= 1.0 <= self.ratio.interval[1]

    @property
    def times(self) -> str:
        """The ratio in words, with its interval."""
        assert self.ratio is not None
        low, high = self.ratio.interval
        doubt = "" if self.told_apart else " (not told apart)"
        return f"{self.ratio.value:.2f} × [{low:.2f}, {high:.2f}]{doubt}"

    @classmethod
    def of(cls, measured: Measurement, *, median: bool = False) -> Gain:
        """Return what a measurement came to: by samples a second, or by the median time of a request."""
        why = measured.refusal.note if measured.refusal is not None else looks.too_few(measured, 0)
        if why:
            return cls(None, measured.requests, why)
        if median:  # of one client: its mean is at the mercy of a few pauses of the machine
            took = served_figures.percentile_ratio(measured, 50, confidence=_CONFIDENCE)
            ratio = served_figures.Estimate(1 / took.value, (1 / took.interval[1], 1 / took.interval[0]))
            return cls(ratio, measured.requests)
        return cls(served_figures.rate_ratio(measured, confidence=_CONFIDENCE), measured.requests)


def measured_gain(
    evidence: Evidence,
    feeds: Mapping[str, Array],
    options: LoadOptions,
    *,
    progress: Callable[[int], None],
    again: bool = True,
    median: bool = False,
) -> Gain:
    """Measure what the candidate wins over the reference.

    Args:
        evidence: Both, up and ready.
        feeds: What clients send.
        options: The load.
        progress: Is told the requests that were answered.
        again: Whether to look a second time, and no third, where the first does not tell them apart.
        median: Whether they are compared by the median time of a request instead of samples a second.
    """
    with SideBySide(evidence, feeds, options) as pair:
        pair.warm_up()
        _rounds(pair, _SECONDS, progress)
        if again and not Gain.of(pair.measured, median=median).told_apart:
            _rounds(pair, _MORE_SECONDS, progress)
    return Gain.of(pair.measured, median=median)


def _rounds(pair: SideBySide, seconds: float, progress: Callable[[int], None]) -> None:
    """Measure for so long, and longer where that is not enough for any figure."""
    until = pair.clock() + seconds
    latest = until + MOST_SECONDS
    while (now := pair.clock()) < latest and (now < until or len(pair.measured.candidate) < MIN_ROUNDS):
        if not pair.round():
            return
        progress(pair.measured.requests)
