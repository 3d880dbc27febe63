"""Compare a figure, or its interval, with a limit."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from dataclasses import replace

from mmdeploy.core.contracts import Check, Verdict
from mmdeploy.core.target import Hardware
from mmdeploy.scoring.metrics import Interval


def within(value: float, *, at_least: float | None = None, at_most: float | None = None, slack: float = 0.0) -> Verdict:
    """Compare a point estimate with the limits given, each widened by ``slack``; NaN fails."""
    high_enough = at_least is None or value >= at_least - slack
    low_enough = at_most is None or value <= at_most + slack
    return Verdict.PASS if high_enough and low_enough and not math.isnan(value) else Verdict.FAIL


def decided(interval: Interval, *, at_least: float | None = None, at_most: float | None = None) -> Verdict:
    """Compare a whole interval with the limits given: inconclusive while one lies inside it."""
    low, high = interval
    if (at_least is None or low >= at_least) and (at_most is None or high <= at_most):
        return Verdict.PASS
    beyond = (at_least is not None and high < at_least) or (at_most is not None and low > at_most)
    return Verdict.FAIL if beyond else Verdict.INCONCLUSIVE


def in_words(*, at_least: float | None = None, at_most: float | None = None, unit: str = "") -> str:
    """Write a limit as reports show it, such as ``<= 12 ms``."""
    sign, limit = (">=", at_least) if at_least is not None else ("<=", at_most)
    return f"{sign} {limit:.10g}" + (f" {unit}" if unit else "")


def resting_on(checks: Iterable[Check], samples: int) -> list[Check]:
    """Say of checks that measured something on how many samples, or requests, they rest."""
    return [check if check.measured is None else replace(check, samples=samples) for check in checks]


def matches(pattern: str, hardware: Hardware) -> bool:
    """Say whether a name or glob from a recipe means this CPU or one of its GPUs; case does not matter."""
    names = (hardware.cpu, *hardware.gpus)
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for name in names)
