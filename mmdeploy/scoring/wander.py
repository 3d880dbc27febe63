"""How sure a figure is that was measured over time, when what is measured wanders slowly.

A server is faster for a while and slower for a while, with nothing to be seen in the requests: an interval that takes
neighbouring measurements for independent is then too narrow, however many there are. Here a figure is the mean of one
value a stretch of time (*unit*). Two intervals share the allowed error, and the narrower one is taken.

The first asks the values how much they wander. Its standard error comes from their slowest movements: the first q
principal components of a series that wanders with a time constant of `WANDER_SECONDS`. The critical value is the
largest that any wander up to that time constant, with any share of noise, asks for, and q is the number that gives the
shortest interval where there is no wander. So it is wide while too little time has passed to see wander, and narrows
with time and not with the number of requests. This is the spatial correlation robust inference of U. K. Müller and M.
W. Watson (Econometrica 90, 2022) on a line. The distribution of the statistic is computed, not simulated, by the
formula of N. K. Bakirov and G. J. Székely (J. Math. Sciences 139, 2006).

The second takes for granted that nothing wanders by more than `WANDER_SHARE` (standard deviation), or by more than half
again of the slow movement that is seen. It decides in seconds what is so far from the limit that no such wander can
explain it, and on busy machines, where noise is large and wander is not.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mmdeploy.scoring.metrics import FloatArray

#: Wander with this time constant, or a shorter one, keeps the confidence.
WANDER_SECONDS = 20.0
#: What values may wander by, as a standard deviation, where it cannot be seen yet; and how much more than is seen.
WANDER_SHARE, UNSEEN = 0.06, 1.5
#: Shorter time constants that are guarded against too, as shares of it, and shares of wander in what is seen.
_SHORTER = (1.0, 0.5, 0.2, 0.05)
_SHARES = (1.0, 0.9, 0.7, 0.4, 0.2, 0.1, 0.05, 0.02, 0.005)
#: Most components: more are worth little, and see less of the wander.
_MOST = 10
_POINTS = 48


def half_width(values: FloatArray, times: FloatArray, *, confidence: float) -> float:
    """Return half the width of the interval of the mean of values that may wander.

    Args:
        values: One a unit, as shares of the figure or logarithms.
        times: When each was measured, in seconds.
        confidence: Such as 0.99; 0 gives 0.
    """
    import numpy as np

    if confidence <= 0.0:
        return 0.0
    if len(values) < 3:
        return math.inf
    each = 1.0 - (1.0 - confidence) / 4.0  # half of the error is kept for what is not normal
    components, critical = _components(tuple(np.round(times - times[0], 2).tolist()), each)
    moved = values @ components
    error = math.sqrt(float(np.square(moved).mean()) / len(values))
    noise = float(np.square(np.diff(values)).mean()) / 2.0  # neighbours have the same wander
    seen = math.sqrt(max(0.0, float((np.square(moved) - noise).sum()) / len(values)))
    return min(critical * error, _bounded(values, times, each, wander=max(WANDER_SHARE, UNSEEN * seen)))


def _bounded(values: FloatArray, times: FloatArray, confidence: float, *, wander: float) -> float:
    """Return half the width of the interval where nothing wanders by more than a standard deviation."""
    import numpy as np
    from scipy.stats import norm, t

    beyond = 0.5 + confidence / 2.0
    noise = float(t.ppf(beyond, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    kept = float(np.exp(-np.abs(np.subtract.outer(times, times)) / WANDER_SECONDS).mean())
    return math.hypot(noise, float(norm.ppf(beyond)) * wander * math.sqrt(kept))


@functools.lru_cache(maxsize=32)
def _components(times: tuple[float, ...], confidence: float) -> tuple[FloatArray, float]:
    """Return the components, shape [units, q], and the critical value."""
    import numpy as np

    apart = np.abs(np.subtract.outer(times, times)) / WANDER_SECONDS
    centred = np.eye(len(times)) - 1.0 / len(times)
    _, vectors = np.linalg.eigh(centred @ np.exp(-apart) @ centred)
    best: tuple[float, int, float] = (math.inf, 0, math.inf)
    most = min(_MOST, len(times) - 1)
    slow = np.column_stack([np.full(len(times), len(times) ** -0.5), vectors[:, ::-1][:, :most]])
    moved = [slow.T @ np.exp(-apart / share) @ slow for share in _SHORTER]
    seen = np.stack([share * one + (1.0 - share) * np.eye(most + 1) for one in moved for share in (*_SHARES, 0.0)])
    for count in range(1, most + 1):
        critical = _critical(seen[:, : count + 1, : count + 1], 1.0 - confidence)
        usual = math.sqrt(2.0 / count) * math.exp(math.lgamma((count + 1) / 2) - math.lgamma(count / 2))
        best = min(best, (critical * usual, count, critical))
    return slow[:, 1 : best[1] + 1], best[2]


def _critical(covariances: FloatArray, doubt: float) -> float:
    """Return the value that the statistic exceeds with at most the probability ``doubt``, whatever the covariance."""
    found = _of_one(covariances[:1], doubt)  # the slowest wander, nearly always the worst
    return found if _exceeding(covariances, found) <= doubt * 1.001 else _of_one(covariances, doubt)


def _of_one(covariances: FloatArray, doubt: float) -> float:
    low, high = 0.0, 8.0
    while _exceeding(covariances, high) > doubt and high < 1e6:
        low, high = high, 2.0 * high
    for _ in range(24):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _exceeding(covariances, middle) > doubt else (low, middle)
    return high


def _exceeding(covariances: FloatArray, critical: float) -> float:
    """Return the largest probability of |mean| > critical · error, over covariances of mean and components."""
    import numpy as np

    count = covariances.shape[-1] - 1
    form = np.array([1.0, *[-(critical**2) / count] * count])
    roots = np.sort(np.linalg.eigvals(covariances * form[None, None, :]).real, axis=-1)
    shares = -roots[:, :-1] / roots[:, -1:]
    points, weights = _quadrature()
    rest = 1.0 - points**2
    product = np.prod(rest[None, :, None] + np.maximum(shares, 0.0)[:, None, :], axis=-1)
    chances = 2.0 / math.pi * (weights * rest ** ((count - 1) / 2.0) / np.sqrt(product)).sum(axis=-1)
    return float(chances.max())


@functools.cache
def _quadrature() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return points in (0, 1) and their weights, dense near 1, where the integrand is steep."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(_POINTS)  # type: ignore[no-untyped-call]
    angles = (points + 1.0) * math.pi / 4.0
    return np.sin(angles), weights * np.cos(angles) * math.pi / 4.0
