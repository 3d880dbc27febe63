"""Time candidates side by side until the choice between them is clear, or the time is up.

Each candidate runs in a process of its own (`engine_process`), and only one of them is asked at a time. A *round* is a
block of the same requests to each, in an order that is drawn by seed and mirrored in every second round, so that a
machine that slows down or speeds up does it to all. A round gives a candidate one figure, the lower quartile of its
block: other work on the machine makes requests longer and never shorter, and what it adds is not the engine's. What is
compared is the median of the ratios of two candidates, round by round; its interval is from resampling whole rounds
(`metrics.median_ratio_interval`), widened by what two loads of the same file differ by as long as they live
(`gates.looks.lasting`). Of eleven engines of a CLIP tower, in 23 rounds on a busy host, those ratios were within 6 % of
what an idle machine shows of INT8 engines, and ratios of medians up to 50 % off.

Before the first look those leave that are far behind in each of the first rounds (`rules.outpaced`). Data doubles from
look to look. Look number k spends 1/2^k of the allowed error, divided among all comparisons, so that the looks and the
number of candidates leave the confidence what it says. A candidate that is clearly slower than the one that would be
chosen is not timed any further (a race, as in O. Maron and A. W. Moore, "Hoeffding Races", 1993); nor is a reference
that all others are far ahead of (`rules.FAR`). What is left shares the time of a round, in larger blocks:
`benchmarks/choice_time.py` shows what that saves.

Unlike those of the gates, these intervals do not allow for slow wander of one process. With the gates' a gain of 10 %
would be told in a third of the races of 15 s where nothing wanders, one of 5 % in next to none, and searches add up
gains that are smaller than that. The price: where each process wanders by 2 % (5 %) for 20 s at a time, of two that are
equally fast one is called faster in 9 % (29 %) of the races, and one that saves a tenth of the time is taken for the
slower one in none (2 %). Of ten candidates what ships takes more than 3 % longer than the fastest in none of 100 races
where nothing wanders, in 9 % (22 %) where processes do, and more than 10 % longer in none (3 %).

`rules.NEAR` is a limit on the measured ratio, not on its interval: something simpler that is 3 % slower ships in 22 %
of the races where nothing wanders, 5 % slower in none; with wander of 2 % (5 %), 5 % slower in 16 % (44 %). Shipping
the fastest whatever is simpler would change little, since the fastest is as uncertain: more than 3 % longer in 5 %
(18 %). What is chosen wrongly is as fast to within the wander, and keeps the budget; how fast the whole really is, a
latency gate judges, with its own intervals. `benchmarks/choice_errors.py` shows all of this.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmdeploy.choice.engine_process import EngineProcess
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import FeedDict, MethodOptions, Progress, no_progress
from mmdeploy.core.errors import EngineError
from mmdeploy.scoring.looks import lasting
from mmdeploy.scoring.metrics import Interval, median_ratio_interval

Clock = Callable[[], float]

#: Wanted length of a round, all candidates together, and the most requests of a block.
ROUND_SECONDS, MOST_REQUESTS = 0.1, 200
#: The least requests of a block, unless one to each candidate takes a second: each block has one that is not counted.
LEAST_REQUESTS = 2
#: Rounds are resampled in units of neighbours, so that there are 30 to 59 of them however long the measurement.
UNITS = 30
MAX_LOOKS = 6
#: Rounds after which those leave that are far behind.
FIRST_ROUNDS = 4


@dataclass(frozen=True)
class Bench:
    """What measures: a test gives one on which requests cost what it says, whatever the processor.

    Attributes:
        start: Starts an engine's process; its ``time`` says what requests take.
        clock: Seconds, by which the time for measuring runs out.
    """

    start: Callable[[Artifact, MethodOptions, Sequence[FeedDict]], EngineProcess] = EngineProcess
    clock: Clock = time.perf_counter


THIS_MACHINE = Bench()


@dataclass
class Timings:
    """Latencies by candidate and round, and the comparisons that they allow.

    Attributes:
        by_label: For each candidate the lower quartile of the milliseconds of a request, by round that it was timed in.
        confidence: Of all comparisons together.
        seed: Of the resampling.
        looks: How often the data has been looked at, this look included.
        medians: For each candidate the median milliseconds of a request in each round: for people.
    """

    by_label: dict[str, dict[int, float]]
    confidence: float = 0.95
    seed: int = 0
    looks: int = 1
    medians: dict[str, list[float]] = field(default_factory=dict)
    _known: dict[tuple[object, ...], Interval] = field(default_factory=dict, repr=False)

    @property
    def level(self) -> float:
        """The confidence of one comparison at this look: each candidate meets the reference and the fastest."""
        comparisons = max(1, 2 * len(self.by_label) - 3)
        return float(1.0 - (1.0 - self.confidence) / 2.0**self.looks / comparisons)

    @property
    def blocks(self) -> dict[str, list[float]]:
        """For each candidate the lower quartile of the milliseconds of a request, round by round."""
        return {label: list(rounds.values()) for label, rounds in self.by_label.items()}

    def add(self, label: str, number: int, taken: Sequence[float]) -> None:
        """Take the milliseconds of a candidate's requests in a round."""
        self.by_label[label][number] = sorted(taken)[(len(taken) - 1) // 4]
        self.medians.setdefault(label, []).append(statistics.median(taken))

    def rounds(self, label: str) -> int:
        """Return in how many rounds a candidate was timed."""
        return len(self.by_label[label])

    def p50_ms(self, label: str) -> float | None:
        """Return the median over the rounds of a candidate's median latency; None where it was never timed."""
        medians = self.medians.get(label)
        return statistics.median(medians) if medians else None

    def ratio(self, label: str, reference: str) -> float:
        """Return the median over the rounds that both were timed in of the ratio of their times; NaN without any."""
        ratios = [ours / theirs for ours, theirs in zip(*self._paired(label, reference), strict=True)]
        return statistics.median(ratios) if ratios else math.nan

    def interval(self, label: str, reference: str) -> Interval:
        """Return the interval of `ratio`; infinitely wide where the two share less than two rounds."""
        key = (label, reference, self.rounds(label), self.rounds(reference), self.looks)
        if key not in self._known:
            self._known[key] = self._interval(label, reference)
        return self._known[key]

    def _interval(self, label: str, reference: str) -> Interval:
        import numpy as np

        ours, theirs = (np.array(side) for side in self._paired(label, reference))
        if len(ours) < 2:
            return (0.0, math.inf)
        size = max(1, len(ours) // UNITS)
        first = len(ours) % size
        ours, theirs = ours[first:].reshape(-1, size), theirs[first:].reshape(-1, size)
        return lasting(median_ratio_interval(ours, theirs, confidence=self.level, seed=self.seed))

    def _paired(self, label: str, reference: str) -> tuple[list[float], list[float]]:
        ours, theirs = self.by_label[label], self.by_label[reference]
        common = sorted(ours.keys() & theirs.keys())
        return [ours[at] for at in common], [theirs[at] for at in common]


@dataclass
class Race:
    """Candidates that are timed in turns.

    Attributes:
        processes: By label; a candidate that fails is closed and leaves.
        max_seconds: Time to spend on timing, over all calls of `run` together.
        min_rounds: Rounds before the first look.
        timings: What was measured; kept of those that left, too.
        failed: Why a candidate left, by label.
    """

    processes: dict[str, EngineProcess]
    max_seconds: float
    min_rounds: int
    timings: Timings
    seed: int = 0
    clock: Clock = time.perf_counter
    progress: Progress = no_progress
    failed: dict[str, str] = field(default_factory=dict)
    _round: int = 0
    _spent: float = 0.0
    _block: int = 0
    _order: list[str] = field(default_factory=list)

    def run(
        self, contenders: Callable[[Timings], Sequence[str]], outpaced: Callable[[Timings], Sequence[str]] | None = None
    ) -> None:
        """Time candidates until at most one is left in the race, or the time is up.

        Args:
            contenders: Says after each look which candidates to go on timing, from what was measured.
            outpaced: Says after the first few rounds of all which candidates not to wait with for a look.
        """
        racing = list(contenders(self.timings)) if self._round else list(self.processes)
        if not self._block:
            self._warm_up()
        elif racing:
            self._block = self._fitting(racing)
        goal = max(self.min_rounds, 2 * self._round)
        while len(racing := [label for label in racing if label in self.processes]) > 1:
            if outpaced is not None and self._round < FIRST_ROUNDS < goal:
                self._rounds(racing, FIRST_ROUNDS)
                behind = set(outpaced(self.timings))
                racing = [label for label in racing if label in self.processes and label not in behind]
                self._block = self._fitting(racing)
            self._rounds(racing, goal)
            racing = list(contenders(self.timings))
            if self._spent >= self.max_seconds or self.timings.looks >= MAX_LOOKS:
                return
            if len(racing) > 1:
                self.timings.looks += 1
                self._block = self._fitting(racing)
            goal *= 2

    def _rounds(self, racing: Sequence[str], goal: int) -> None:
        """Time candidates until there are so many rounds, or the time is up."""
        while self._round < goal and self._spent < self.max_seconds:
            self._one_round(racing)
            self.progress(self._round, goal, f"rounds of {len(racing)} engines")

    def _warm_up(self) -> None:
        """Ask each a few requests that are not counted, and learn how many make a block."""
        taken = {label: self._ask(label, 0, 2) for label in list(self.processes)}
        self._block = _block_of(sum(min(times) for times in taken.values() if times))

    def _fitting(self, racing: Sequence[str]) -> int:
        """Return how many requests to each of those that are left make a round."""
        return _block_of(sum(self.timings.p50_ms(label) or 0.0 for label in racing))

    def _one_round(self, racing: Sequence[str]) -> None:
        import numpy as np

        started = self.clock()
        if self._round % 2 == 0 or not set(racing) <= set(self._order):
            drawn = np.random.default_rng((self.seed, self._round)).permutation(len(racing))
            self._order = [racing[index] for index in drawn]
        else:  # mirrors the one before it
            self._order.reverse()
        for label in self._order:
            if label in self.processes and label in racing:
                times = self._ask(label, self._round * self._block, self._block)
                if times:
                    self.timings.add(label, self._round, times)
        self._round += 1
        self._spent += self.clock() - started

    def _ask(self, label: str, first: int, count: int) -> list[float]:
        try:
            return self.processes[label].time(first, count)
        except EngineError as error:
            self.out(label, error.message)
            return []

    def out(self, label: str, why: str) -> None:
        """Take a candidate that failed out of the race."""
        self.failed[label] = why
        self.processes.pop(label).close()


def _block_of(total_ms: float) -> int:
    """Return the requests of a block, where one to each candidate takes so long."""
    if total_ms <= 0:
        return 1
    least = LEAST_REQUESTS if total_ms < 1e3 else 1
    return max(least, min(MOST_REQUESTS, int(ROUND_SECONDS * 1e3 / total_ms)))
