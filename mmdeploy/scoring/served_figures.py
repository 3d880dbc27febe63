"""Percentiles and rates of what was measured in turns, with intervals that wander of a server does not fool.

Each round has an influence on a figure: how much more or less of it there would be if all rounds were as this one.
Their means over stretches of time are what `mmdeploy.scoring.wander` takes. Percentiles are linear in these influences
to the first order (R. R. Bahadur, Ann. Math. Stat. 37, 1966), and no round has much of one, however slow it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from mmdeploy.scoring import wander
from mmdeploy.scoring.load import Block, Measurement
from mmdeploy.scoring.metrics import FloatArray, Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Standard deviation of the ratio of two servings of the same bytes, as long as they live (where their memory came to
#: lie). Ten pairs of servers on the same files, timed twice each: ratios of p50 scattered with 0.018, of which the
#: measurements themselves explain 0.009.
SERVING_SPREAD = 0.0156
Side = Literal["candidate", "reference"]
#: Stretches of time that influences are averaged over.
_UNITS = 48


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval."""

    value: float
    interval: Interval


def percentile_ratio(measured: Measurement, percentile: float, *, confidence: float) -> Estimate:
    """Return the ratio of a percentile of the latencies, candidate over reference."""
    candidate, reference = (_percentile(side, percentile) for side in (measured.candidate, measured.reference))
    return _estimate(measured, candidate[0] / reference[0], candidate[1] - reference[1], confidence)


def percentile_ms(measured: Measurement, percentile: float, *, confidence: float, side: Side = "candidate") -> Estimate:
    """Return a percentile of the latencies of one side in milliseconds."""
    value, influence = _percentile(getattr(measured, side), percentile)
    return _estimate(measured, value, influence, confidence)


def rate_ratio(measured: Measurement, *, confidence: float) -> Estimate:
    """Return the ratio of requests a second, candidate over reference."""
    candidate, reference = (_rate(side, measured.block_requests) for side in (measured.candidate, measured.reference))
    return _estimate(measured, candidate[0] / reference[0], candidate[1] - reference[1], confidence)


def rate(measured: Measurement, *, samples: int, confidence: float) -> Estimate:
    """Return the candidate's samples a second, of requests of so many samples."""
    value, influence = _rate(measured.candidate, measured.block_requests * samples)
    return _estimate(measured, value, influence, confidence)


def _percentile(blocks: Sequence[Block], percentile: float) -> tuple[float, FloatArray]:
    """Return a percentile over all requests, and each block's influence on it as a share of it."""
    import numpy as np

    latencies, share = np.stack([block.latencies_ms for block in blocks]), percentile / 100.0
    beside = min(0.15, (1.0 - share) / 2.0)
    below, value, above = np.quantile(latencies, [share - beside, share, share + beside])
    slope = (above - below) / (2.0 * beside)  # of the quantile function: one over the density
    return float(value), (share - (latencies <= value).mean(axis=1)) * slope / value


def _rate(blocks: Sequence[Block], requests: int) -> tuple[float, FloatArray]:
    """Return requests a second, and each block's influence on it as a share of it."""
    import numpy as np

    seconds = np.array([block.seconds for block in blocks])
    return float(requests / seconds.mean()), 1.0 - seconds / seconds.mean()


def _estimate(measured: Measurement, value: float, influence: FloatArray, confidence: float) -> Estimate:
    """Return a figure with its interval, which allows for wander and for what starting the servers anew changes."""
    import numpy as np

    pairs = zip(measured.candidate, measured.reference, strict=True)
    times = np.array([(ours.at + theirs.at) / 2 for ours, theirs in pairs])
    pieces = np.array_split(np.arange(len(times)), min(_UNITS, len(times)))
    units, middles = (np.array([array[piece].mean() for piece in pieces]) for array in (influence, times))
    spread = NormalDist().inv_cdf(0.5 + confidence / 2.0) * SERVING_SPREAD
    half = math.hypot(wander.half_width(units, middles, confidence=confidence), spread)
    if half > 300.0:
        return Estimate(value, (0.0, math.inf))
    return Estimate(value, (value * math.exp(-half), value * math.exp(half)))
