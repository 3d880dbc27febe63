"""How often the gates of speed err on servers that wander, by simulation: no server, no real time.

Run it as ``python benchmarks/verdict_errors.py [--trials 1000] [--json FILE]``. Two simulated servers are measured by
the gates' own code on a clock of its own. A request takes 20 ms, give or take 5 % (log-normal), one in fifty 60 % more.
In the cases called *wander* the candidate is faster or slower for a while: a first-order autoregression with a standard
deviation of 5 % and a time constant of 20 s. In all, every trial's pair of servers differs lastingly by 1.6 % (standard
deviation), as two servings of the same files do.

What is promised, and what the exit code is 1 for where it does not hold: equals at a limit of exactly what equals reach
fail, and pass, in at most 1 % of the judgements; a candidate that is 10 % slower passes a limit of 1.0 or 1.05 in at
most 1 %. How many are inconclusive, and how long it took, is shown beside it: that is the price.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmdeploy.core.contracts import Evidence, Verdict
from mmdeploy.core.target import this_hardware
from mmdeploy.gates import latency, throughput
from mmdeploy.scoring import looks
from mmdeploy.scoring.load import BLOCK_SECONDS, Block, LoadOptions, Measurement
from mmdeploy.scoring.served_figures import SERVING_SPREAD

REQUEST_MS, NOISE, TAIL_SHARE, TAIL = 20.0, 0.05, 0.02, 1.6
WANDER, TIME_CONSTANT = 0.05, 20.0


@dataclass
class Server:
    """A simulated server: how long its requests take, and how it wanders."""

    random: np.random.Generator
    factor: float
    wander: float
    _level: float = 0.0
    _seen_at: float | None = None

    def block(self, requests: int, now: float) -> Block:
        """Answer requests, one after the other, from ``now`` on."""
        if self._seen_at is None:
            self._level = self.random.normal()
        else:
            kept = math.exp(-(now - self._seen_at) / TIME_CONSTANT)
            self._level = kept * self._level + math.sqrt(1 - kept**2) * self.random.normal()
        self._seen_at = now
        taken = self.random.lognormal(0, NOISE, requests) * np.where(self.random.random(requests) < TAIL_SHARE, TAIL, 1)
        taken *= REQUEST_MS * self.factor * math.exp(self.wander * self._level)
        seconds = float(taken.sum()) / 1e3
        return Block(taken, seconds, now + seconds / 2)


@dataclass
class Pair:
    """What `mmdeploy.scoring.load.SideBySide` is to a verdict, on simulated servers."""

    candidate: Server
    reference: Server
    random: np.random.Generator
    now: float = 0.0
    measured: Measurement = field(default_factory=Measurement)

    def clock(self) -> float:
        """Return the simulated time."""
        return self.now

    def warm_up(self) -> None:
        """Learn how many requests make a block."""
        self.measured.block_requests = round(BLOCK_SECONDS / (REQUEST_MS / 1e3))

    def round(self) -> bool:
        """Measure a block of each, in either order."""
        sides = ["candidate", "reference"]
        self.random.shuffle(sides)
        for side in sides:
            block = getattr(self, side).block(self.measured.block_requests, self.now)
            self.now += block.seconds
            getattr(self.measured, side).append(block)
        return True


@dataclass(frozen=True)
class Case:
    """What is judged, and which verdicts are false."""

    name: str
    options: LoadOptions
    factor: float
    wander: float
    false: tuple[Verdict, ...] = ()


def cases(max_seconds: float) -> list[Case]:
    """Return the cases: with and without wander, for each of the figures that gates judge."""
    shared = {"max_seconds": max_seconds}
    found = []
    for wander in (0.0, WANDER):
        for percentile in ("p50", "p95"):
            for name, factor, limit, false in (
                ("equal, limit 1.0", 1.0, 1.0, (Verdict.FAIL, Verdict.PASS)),
                ("10 % slower, limit 1.0", 1.1, 1.0, (Verdict.PASS,)),
                ("10 % slower, limit 1.05", 1.1, 1.05, (Verdict.PASS,)),
                ("equal, limit 1.1", 1.0, 1.1, (Verdict.FAIL,)),
                ("20 % slower, limit 1.0", 1.2, 1.0, (Verdict.PASS,)),
                ("half the time, limit 0.8", 0.5, 0.8, (Verdict.FAIL,)),
            ):
                options = latency.Options(percentile=percentile, max_ratio_to_reference=limit, **shared)
                found.append(Case(f"{percentile} {name}", options, factor, wander, false))
        for name, factor, limit, false in (
            ("equal, limit 1.0", 1.0, 1.0, (Verdict.FAIL, Verdict.PASS)),
            ("10 % slower, limit 0.95", 1.1, 0.95, (Verdict.PASS,)),
        ):
            rate = throughput.Options(min_ratio_to_reference=limit, concurrency=1, **shared)
            found.append(Case(f"throughput {name}", rate, factor, wander, false))
    return found


def judged(case: Case, seed: int, evidence: Evidence) -> tuple[Verdict, float]:
    """Judge one pair of servers; return the verdict and the seconds that it took them."""
    random = np.random.default_rng([seed, 1])
    lasting = math.exp(random.normal(0, SERVING_SPREAD))
    pair = Pair(
        Server(np.random.default_rng([seed, 2]), case.factor * lasting, case.wander),
        Server(np.random.default_rng([seed, 3]), 1.0, 0.0),
        random,
    )
    gate = latency if isinstance(case.options, latency.Options) else throughput
    checks = looks.until_decided(
        pair,  # type: ignore[arg-type]
        case.options,
        evidence,
        what="simulated",
        decide=lambda measured, confidence: gate._checks(measured, confidence, case.options, absolute=False),
    )
    return Verdict.of_all([check.verdict for check in checks]), pair.now


def main() -> None:
    """Judge again and again, print a table, and exit with 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--max-seconds", type=float, default=60.0, help="for each verdict, as in a recipe")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    evidence = Evidence({}, {}, (), (), {}, None, {}, this_hardware(), 8)  # type: ignore[arg-type]
    rows = []
    print(f"{'':<46}{'pass':>7}{'fail':>7}{'open':>7}{'false':>8}{'s, median':>11}")
    for case in cases(arguments.max_seconds):
        name = f"{case.name}{', wander' if case.wander else ''}"
        if arguments.only not in name:
            continue
        began, found, seconds = time.perf_counter(), Counter[Verdict](), list[float]()
        for seed in range(arguments.trials):
            verdict, taken = judged(case, seed, evidence)
            found[verdict] += 1
            seconds.append(taken)
        shares = {verdict: found[verdict] / arguments.trials for verdict in Verdict}
        # with so many trials a true 1 % is exceeded by this much by chance once in a hundred
        allowed = 0.01 + 2.33 * math.sqrt(0.01 * 0.99 / arguments.trials)
        wrong = {verdict: shares[verdict] for verdict in case.false}
        kept = all(share <= allowed for share in wrong.values())
        counts = "".join(f"{shares[verdict]:>7.1%}" for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE))
        worst = max(wrong.values(), default=0.0)
        print(f"{name:<46}{counts}{worst:>8.2%}{np.median(seconds):>11.1f}{'' if kept else '  BROKEN'}")
        sys.stdout.flush()
        rows.append({
            "case": name, "verdicts": {str(verdict): share for verdict, share in shares.items()}, "false": worst,
            "median_seconds": float(np.median(seconds)), "kept": kept, "cpu_seconds": time.perf_counter() - began,
        })  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps({"trials": arguments.trials, "rows": rows}, indent=1) + "\n")
    sys.exit(0 if all(row["kept"] for row in rows) else 1)


if __name__ == "__main__":
    main()
