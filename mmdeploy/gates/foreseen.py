"""What the number of samples cannot show, whatever is measured on them."""

from __future__ import annotations

import math
from statistics import NormalDist

from mmdeploy.gates import accuracy
from mmdeploy.gates.resolution import MUCH_MORE
from mmdeploy.scoring.metrics import paired_proportion_interval

#: Metrics that count right answers: what samples can show of these at best depends on their number alone.
_COUNTS = ("top1", "accuracy", "top5")


def foreseen(options: accuracy.Options, samples: int) -> str | None:
    """Say what a number of samples cannot show, before anything is measured: at best all that changes is for the worse.

    Args:
        options: Of the accuracy gate.
        samples: How many there are.

    Returns:
        A sentence; None where they may be enough, or where their number alone does not tell.
    """
    limit = options.max_drop
    if limit is None or options.metric not in _COUNTS or not samples:
        return None
    if options.rule == "interval":
        high = paired_proportion_interval(0, 0, samples, confidence=options.confidence)[1]
        if high <= limit:
            return None
        return (
            f"the accuracy gate ({options.metric}) cannot pass: with {samples} evaluation samples the interval of a "
            f"drop reaches {high:.3g} even where no answer changes, and max_drop is {limit:g}; give more samples"
        )
    found, once_in_20 = limit, NormalDist().inv_cdf(0.95)
    for _ in range(20):
        found = limit + once_in_20 * math.sqrt(max(0.0, found - found**2) / samples)
    if not limit or found <= MUCH_MORE * limit:
        return None
    return (
        f"the accuracy gate ({options.metric}) has few samples: with {samples} a true drop of {found:.3g} may pass its "
        f"max_drop of {limit:g}; give more samples, or let `rule: interval` decide"
    )
