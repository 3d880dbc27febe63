"""How often the race behind ``engine: auto`` and ``keep: if_it_pays`` errs on processes that wander, by simulation.

    python benchmarks/choice_errors.py [--trials 100]

Two candidates are timed in rounds of 0.1 s for 30 s, with noise of 2 % a round, and each is faster or slower for a
while: a standard deviation and a time constant of 20 s. Shown is what the race comes to with its own intervals, and
what it would come to with those of the gates, which allow for such wander (`mmdeploy.scoring.wander`).
"""

from __future__ import annotations

import argparse
import math
from collections import Counter

import numpy as np

from mmdeploy.choice.measure import MAX_LOOKS, UNITS, Timings
from mmdeploy.scoring import wander

ROUND_S, ROUNDS, FIRST_LOOK, NOISE, CONSTANT_S = 0.1, 300, 20, 0.02, 20.0


def main() -> int:
    """Simulate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    trials = parser.parse_args().trials
    print("| wander | true ratio | the race: faster, tie, slower | with the gates' intervals |\n|---|---|---|---|")
    for deviation in (0.0, 0.02, 0.05):
        for ratio in (1.0, 0.95, 0.9, 0.8):
            cells = []
            for robust in (False, True):
                found = Counter(_trial(seed, ratio, deviation, robust=robust) for seed in range(trials))
                cells.append(", ".join(f"{found[one] / trials:.0%}" for one in ("faster", "tie", "slower")))
            print(f"| {deviation:.0%} | {ratio} | {cells[0]} | {cells[1]} |", flush=True)
    return 0


def _trial(seed: int, ratio: float, deviation: float, *, robust: bool) -> str:
    random = np.random.default_rng(seed)
    ours, theirs = (_log_times(random, deviation) for _ in range(2))
    ours += math.log(ratio)
    for look in range(1, MAX_LOOKS + 1):
        count = min(ROUNDS, FIRST_LOOK * 2 ** (look - 1))
        low, high = _interval(ours[:count], theirs[:count], look, robust=robust)
        if high < 1.0 or low > 1.0:
            return "faster" if high < 1.0 else "slower"
        if count == ROUNDS:
            break
    return "tie"


def _log_times(random: np.random.Generator, deviation: float) -> np.ndarray:
    kept = math.exp(-ROUND_S / CONSTANT_S)
    steps = random.normal(size=ROUNDS) * deviation
    for at in range(1, ROUNDS):
        steps[at] = kept * steps[at - 1] + math.sqrt(1.0 - kept**2) * steps[at]
    return steps + random.normal(0.0, NOISE, ROUNDS)


def _interval(ours: np.ndarray, theirs: np.ndarray, look: int, *, robust: bool) -> tuple[float, float]:
    sides = {"ours": dict(enumerate(np.exp(ours))), "theirs": dict(enumerate(np.exp(theirs)))}
    timings = Timings(sides, looks=look)
    if not robust:
        return timings.interval("ours", "theirs")
    size = max(1, len(ours) // UNITS)
    units = len(ours) // size
    values = (ours - theirs)[: units * size].reshape(units, size).mean(axis=1)
    half = wander.half_width(values, np.arange(units) * size * ROUND_S, confidence=timings.level)
    return math.exp(values.mean() - half), math.exp(values.mean() + half)


if __name__ == "__main__":
    raise SystemExit(main())
