"""How long the race behind ``engine: auto`` takes to be clear, by simulation, and by how much it misses the fastest.

    python benchmarks/choice_time.py [--trials 20] [--max-seconds 120]

Engines take as long as those of a CLIP tower took on a CPU with AMX, with noise from request to request and from round
to round, and with other work that stops the processor now and then for 20 ms on the average; the clock is the sum of
what they take. Beside the race as it is: one that times the reference to the end, and one whose blocks keep the size
that they had when all were in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdeploy.choice import rules
from mmdeploy.choice.measure import Race, Timings

#: Milliseconds of a request, whether it is INT8, in the order of simplicity.
ENGINES = {
    "ort fp32": (41.0, False), "ov fp32": (40.2, False), "ov bf16": (13.9, False), "ort u8": (10.1, True),
    "ort u8s": (9.93, True), "ov s8": (8.56, True), "ov u8": (9.03, True), "ov s8 bf16": (8.86, True),
    "ov u8 bf16": (9.17, True), "ov s8, batch 1": (8.32, True), "ov s8 bf16, batch 1": (8.30, True),
}  # fmt: skip
MIN_ROUNDS = 12
#: How long other work stops the processor on the average, in milliseconds.
STOP_MS = 20.0
ENTRANTS = [rules.Entrant(label, int8, rank) for rank, (label, (_, int8)) in enumerate(ENGINES.items())]


class Simulated:
    """Takes what it is said to take; `benchmarks/choice_time.py`'s clock is what all of them took."""

    def __init__(
        self, label: str, random: np.random.Generator, noise: float, stolen: float, spent: list[float]
    ) -> None:
        self.ms, self.random, self.noise, self.stolen, self.spent = ENGINES[label][0], random, noise, stolen, spent

    def time(self, first: int, count: int) -> list[float]:
        """Return the milliseconds of some requests; one more is asked and not counted, as an engine's process does."""
        level = self.ms * np.exp(self.random.normal(0, self.noise / 2))
        taken = level * np.exp(self.random.normal(0, self.noise, count + 1))
        stops = self.random.poisson(taken * self.stolen / STOP_MS)
        taken += self.random.gamma(np.maximum(stops, 1e-9), STOP_MS)
        self.spent[0] += float(taken.sum()) / 1e3
        return [float(one) for one in taken[1:]]

    def close(self) -> None:
        """Nothing is held."""


def main() -> int:
    """Simulate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--max-seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    print("| noise, stolen | race | seconds, median | most | ships slower than the fastest by, mean | most |")
    print("|---|---|---|---|---|---|")
    for noise, stolen in ((0.02, 0.0), (0.05, 0.0), (0.1, 0.0), (0.05, 0.2), (0.05, 0.5)):
        for name, far, fitted in (("as it is", rules.FAR, True), ("reference to the end", 0.0, True),
                                  ("and blocks as at the start", 0.0, False)):  # fmt: skip
            trials = [
                _trial(seed, (noise, stolen), arguments.max_seconds, far, fitted=fitted)
                for seed in range(arguments.trials)
            ]
            seconds, behind = np.array(trials).T
            print(
                f"| {noise:.0%}, {stolen:.0%} | {name} | {np.median(seconds):.1f} | {seconds.max():.1f} "
                f"| {behind.mean():.1%} | {behind.max():.1%} |",
                flush=True,
            )
    return 0


def _trial(seed: int, noise: tuple[float, float], max_seconds: float, far: float, *, fitted: bool) -> Sequence[float]:
    random, spent = np.random.default_rng(seed), [0.0]
    processes: dict[str, Any] = {label: Simulated(label, random, *noise, spent) for label in ENGINES}
    timings = Timings({label: {} for label in ENGINES}, seed=seed)
    race = Race(processes, max_seconds, MIN_ROUNDS, timings, seed, clock=lambda: spent[0])
    if not fitted:
        race._fitting = lambda racing: race._block  # type: ignore[method-assign]
    known, rules.FAR = rules.FAR, far
    try:
        race.run(
            lambda found: rules.undecided(ENTRANTS, found, None), lambda found: rules.outpaced(ENTRANTS, found.blocks)
        )
        ruling = rules.choose(ENTRANTS, timings, None)
    finally:
        rules.FAR = known
    assert ruling is not None
    return spent[0], ENGINES[ruling.winner][0] / min(ms for ms, _ in ENGINES.values()) - 1


if __name__ == "__main__":
    raise SystemExit(main())
