"""How often the race behind ``engine: auto`` and ``keep: if_it_pays`` errs on processes that wander, by simulation.

    python benchmarks/choice_errors.py [--trials 200] [--json FILE]

The race and the rules are mmdeploy's own (`measure.Race`, `rules`, with the defaults of the options); only the engines
are drawn, and the clock is the sum of what they take. A block has noise of 2 %, a process is faster or slower for as
long as it lives by 0.7 % (standard deviation), and for a while by what the table says, with a time constant of 20 s.

- ``pair``: a float reference against one INT8 candidate, as ``keep: if_it_pays`` times them (15 s): what the race comes
  to, and what it would with the intervals of the gates, which allow for such wander (`mmdeploy.scoring.wander`).
- ``simpler``: two that are both twice as fast as the reference, as ``engine: auto`` times them (30 s), of which the
  simpler is slower by so much: how often it ships.
- ``field``: ten candidates, seven of them drawn within 30 % of each other: by how much what ships is slower than the
  fastest, with the rules as they are and with others.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from mmdeploy.choice import rules
from mmdeploy.choice.measure import ROUND_SECONDS, UNITS, Race, Timings
from mmdeploy.choice.options import AutoEngine, MustPay
from mmdeploy.scoring import metrics, wander
from mmdeploy.scoring.looks import lasting

NOISE, LOADING, CONSTANT_S = 0.02, 0.007, 20.0
WANDERS = (0.0, 0.02, 0.05)
PAY, AUTO = MustPay(), AutoEngine()
#: Beside the rules as they are: timed until told apart or the time is up; the fastest ships, whatever is simpler.
RACES = {
    "as it is": {"NEAR": rules.NEAR},
    "the fastest ships": {"NEAR": 0.0},
    "timed until told apart": {"EQUAL_SHARE": 0.0},
}


class Simulated:
    """A process whose requests take what is drawn; the shared clock is what all of them took."""

    def __init__(self, ms: float, deviation: float, random: np.random.Generator, spent: list[float]) -> None:
        self.ms, self.deviation, self.random, self.spent = (
            ms * math.exp(random.normal(0, LOADING)),
            deviation,
            random,
            spent,
        )
        self.level, self.at = random.normal(0.0, deviation), 0.0

    def time(self, first: int, count: int) -> list[float]:
        """Return the milliseconds of some requests; one more is asked and not counted, as an engine's process does."""
        kept = math.exp(-(self.spent[0] - self.at) / CONSTANT_S)
        self.level = kept * self.level + math.sqrt(1.0 - kept**2) * self.random.normal(0.0, self.deviation)
        self.at = self.spent[0]
        taken = self.ms * math.exp(self.level + self.random.normal(0.0, NOISE))
        self.spent[0] += taken * (count + 1) / 1e3
        return [taken] * count

    def close(self) -> None:
        """Nothing is held."""


class Robust(Timings):
    """Timings with the intervals of the gates."""

    def _interval(self, label: str, reference: str) -> tuple[float, float]:
        ours, theirs = (np.log(side) for side in self._paired(label, reference))
        if len(ours) < 3:
            return (0.0, math.inf)
        size = max(1, len(ours) // UNITS)
        units = len(ours) // size
        values = (ours - theirs)[-units * size :].reshape(units, size).mean(axis=1)
        half = wander.half_width(values, np.arange(units) * size * ROUND_SECONDS, confidence=self.level)
        return lasting((math.exp(values.mean() - half), math.exp(values.mean() + half)))


def main() -> int:
    """Simulate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=("pair", "simpler", "field"), default=("pair", "simpler", "field"))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    functions = {"pair": _pairs, "simpler": _simpler, "field": _fields}
    with mock.patch.object(metrics, "_DRAWS_AT_ONCE", metrics._TAIL_RESAMPLES):  # the same figures, sooner
        found = {name: functions[name](given.trials) for name in given.only}
    if given.json:
        given.json.write_text(json.dumps({"trials": given.trials, **found}, indent=1) + "\n")
    return 0


def _pairs(trials: int) -> list[dict[str, Any]]:
    print("| wander | true ratio | the race: faster, tie, slower | with the gates' intervals |\n|---|---|---|---|")
    rows = []
    entrants = [rules.Entrant("float", False, 0), rules.Entrant("int8", True, 1)]
    for deviation in WANDERS:
        for ratio in (1.0, 0.95, 0.9, 0.8):
            kinds = {}
            for kind in (Timings, Robust):
                found = Counter[str]()
                for seed in range(trials):
                    _, timings, _ = _race(seed, entrants, (2.0, 2.0 * ratio), deviation, PAY, kind)
                    low, high = timings.interval("int8", "float")
                    found["faster" if high < 1.0 else "slower" if low > 1.0 else "tie"] += 1
                kinds[kind.__name__] = {one: found[one] / trials for one in ("faster", "tie", "slower")}
            rows.append({"wander": deviation, "ratio": ratio, **kinds})
            cells = [", ".join(f"{share:.0%}" for share in shares.values()) for shares in kinds.values()]
            print(f"| {deviation:.0%} | {ratio} | {' | '.join(cells)} |", flush=True)
    return rows


def _simpler(trials: int) -> list[dict[str, Any]]:
    slower = (0.0, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)
    print("\n| wander | the simpler ships where it is slower by " + " | ".join(f"{by:.0%}" for by in slower) + " |")
    print("|---" * (len(slower) + 1) + "|")
    entrants = [rules.Entrant(label, label != "float", rank) for rank, label in enumerate(("float", "simple", "other"))]
    rows = []
    for deviation in WANDERS:
        shares = {}
        for by in slower:
            times = (4.0, 2.0 * (1.0 + by), 2.0)
            ships = [_race(seed, entrants, times, deviation, AUTO)[0] for seed in range(trials)]
            shares[f"{by:g}"] = ships.count("simple") / trials
        rows.append({"wander": deviation, "ships": shares})
        print(f"| {deviation:.0%} | " + " | ".join(f"{share:.0%}" for share in shares.values()) + " |", flush=True)
    return rows


def _fields(trials: int) -> list[dict[str, Any]]:
    print(
        "\n| wander | race | slower than the fastest by: mean | 95 of 100 | most | > 3 % | > 5 % | > 10 % | seconds |"
    )
    print("|---" * 9 + "|")
    entrants = [rules.Entrant(f"e{rank}", rank > 2, rank) for rank in range(10)]
    rows = []
    for deviation in WANDERS:
        for name, changed in RACES.items():
            behind, seconds = [], []
            for seed in range(trials // 4 if changed.get("EQUAL_SHARE") == 0.0 else trials):  # that takes long
                drawn = np.random.default_rng((seed, 7)).uniform(math.log(1.0), math.log(1.3), 7)
                times = (4.0, 3.0, 2.5, *(2.0 * math.exp(one) for one in drawn))
                with mock.patch.multiple(rules, **changed):
                    winner, _, spent = _race(seed, entrants, times, deviation, AUTO)
                behind.append(times[int(winner[1:])] / min(times) - 1.0)
                seconds.append(spent)
            row = {"mean": float(np.mean(behind)), "p95": float(np.percentile(behind, 95)), "most": max(behind)}
            row |= {f"over {limit:g}": float(np.mean(np.array(behind) > limit)) for limit in (0.03, 0.05, 0.1)}
            print(f"| {deviation:.0%} | {name} | " + " | ".join(f"{figure:.1%}" for figure in row.values()), end="")
            print(f" | {np.median(seconds):.1f} |", flush=True)
            rows.append({"wander": deviation, "race": name, **row, "seconds": float(np.median(seconds))})
    return rows


def _race(
    seed: int,
    entrants: Sequence[rules.Entrant],
    times: Sequence[float],
    deviation: float,
    options: Any,
    kind: Any = Timings,
) -> tuple[str, Timings, float]:
    """Run one race and return what ships, what was measured, and the seconds."""
    random, spent = np.random.default_rng(seed), [0.0]
    labels = [one.label for one in entrants]
    processes: dict[str, Any] = {
        label: Simulated(ms, deviation, random, spent) for label, ms in zip(labels, times, strict=True)
    }
    timings = kind({label: {} for label in labels}, confidence=options.confidence, seed=seed)
    race = Race(processes, options.max_seconds, options.min_rounds, timings, seed, clock=lambda: spent[0])
    race.run(lambda now: rules.undecided(entrants, now, None), lambda now: rules.outpaced(entrants, now.blocks))
    ruling = rules.choose(entrants, timings, None)
    assert ruling is not None
    return ruling.winner, timings, spent[0]


if __name__ == "__main__":
    raise SystemExit(main())
