"""The search behind ``quantize: {method: auto}``: which layer groups are INT8, within a budget of the task's metric.

It starts with all groups in INT8. Groups whose INT8 brings no measurable speed go back to FP32 first; then, while the
ensemble loses more than the budget on one half of the validation samples, the group that costs most accuracy for the
speed it brings. What had to go back only because of others is tried in INT8 again. The result is judged on the other
half, which the search has not seen; as long as it fails there, one more group goes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdeploy.core.contracts import StepContext
from mmdeploy.core.errors import BudgetError
from mmdeploy.core.facts import as_metadata
from mmdeploy.quantize import speed
from mmdeploy.quantize.layer_groups import LayerGroup
from mmdeploy.quantize.partial import PartialGraphs
from mmdeploy.quantize.sensitivity import each_alone, together
from mmdeploy.scoring.evaluations import SEARCHED, Budget, Evaluations, ScoredDrop, number_text
from mmdeploy.scoring.findings import Decision, scored

#: A gain that could not be measured, or not be told from nothing, counts as this share of the latency.
_SMALLEST_GAIN = 1e-3

_SPEND_ELSEWHERE = "raise max_drop, train it with `quantize: {method: qat}`, or leave it in FP32 (quantize: null)"


@dataclass
class Search:
    """One search and what it came to.

    Attributes:
        graphs: Writes graphs with some groups in INT8.
        evaluations: Scores them.
        budget: What may be lost.
        context: Of the step.
        kept: Groups in INT8 now, in the graph's order.
        decisions: What was done, why, and what it cost and gained.
        ranked: Each group alone in INT8, on the samples searched, worst first.
        gains: What INT8 brings in speed; None where it could not be measured.
    """

    graphs: PartialGraphs
    evaluations: Evaluations
    budget: Budget
    context: StepContext
    kept: tuple[str, ...] = ()
    decisions: list[Decision] = field(default_factory=list)
    ranked: list[tuple[LayerGroup, ScoredDrop]] = field(default_factory=list)
    gains: speed.Gains | None = None
    _tried: list[tuple[tuple[str, ...], ScoredDrop]] = field(default_factory=list)
    _last: ScoredDrop | None = None

    def find(self, as_float: ScoredDrop, watch: speed.Stopwatch | None) -> None:
        """Choose the groups in INT8 by the samples searched.

        Args:
            as_float: Of the component in FP32, what feeds it as it ships.
            watch: Times graphs on the engine; None decides by accuracy alone.

        Raises:
            BudgetError: If the budget is broken with no group, or with any one of them, in INT8.
        """
        self.kept = tuple(group.name for group in self.graphs.groups)
        if not self.budget.kept(as_float):
            raise self._unmeetable(
                "is lost before it: with the component in FP32 the ensemble already loses"
                f" {number_text(as_float.drop)} by what feeds it",
                hint="compress less what lies upstream of it, or raise max_drop",
            )
        self.ranked = each_alone(self.graphs, self.evaluations, SEARCHED, self.context)
        if watch is not None:
            self._give_back_what_brings_no_speed(watch)
        given = []
        while not self.budget.kept(self._now()):
            given.append(self._give_back("the budget is broken on the samples searched"))
        for name in reversed(given[:-1]):
            self._try_again(name)

    def verify(self, build: Callable[[tuple[str, ...]], ScoredDrop]) -> ScoredDrop:
        """Judge the result on the samples held back; give back more groups until it keeps the budget there.

        Args:
            build: Builds what would ship with the named groups in INT8 and scores it on the samples held back.

        Raises:
            BudgetError: If no group in INT8 is left.
        """
        while True:
            found = build(self.kept)
            self._tried.append((self.kept, found))
            if self.budget.proven(found):
                return found
            self._give_back(f"the samples held back lose {number_text(found.drop)}{found.range_text}")

    def _give_back_what_brings_no_speed(self, watch: speed.Stopwatch) -> None:
        self.gains = gains = watch.gains()
        slow = speed.unpaid(watch, gains, self.kept)
        if len(slow) == len(self.kept):
            low, high = gains.float_ratio.ratio_interval
            decision = Decision(
                "no layer group goes back to FP32 for its speed",
                "INT8 as a whole is not measurably faster on the component's engine: the choice of what ships decides"
                " that",
                f"FP32 takes {gains.float_ratio.ratio:.3g} times the latency ({low:.3g} to {high:.3g})",
                "the size",
            )
            self.decisions.append(decision)
            return
        for name in slow:
            self.kept = tuple(other for other in self.kept if other != name)
            why = "its INT8 is not measurably faster on the component's engine"
            self._decided(name, "back to FP32", why, gain="the accuracy that its INT8 costs")

    def _give_back(self, why: str) -> str:
        """Return the group that costs most accuracy for its speed to FP32."""
        before = self._last
        name = max(self.kept, key=self._cost_per_gain)
        if len(self.kept) == 1:
            raise self._unmeetable("cannot be kept with any layer group in INT8")
        self.kept = tuple(other for other in self.kept if other != name)
        after = self._now()
        gain = (
            f"drop {number_text(before.drop)} → {number_text(after.drop)}"
            if before
            else f"drop {number_text(after.drop)}"
        )
        self._decided(name, "back to FP32", why, gain=gain)
        return name

    def _try_again(self, name: str) -> None:
        """Put a group into INT8 again if the budget is kept with it."""
        kept, last = self.kept, self._last
        self.kept = tuple(group.name for group in self.graphs.groups if group.name in {*self.kept, name})
        found = self._now()
        if self.budget.kept(found):
            why = "without the groups that went back after it, it keeps the budget"
            cost = f"drop {number_text(found.drop)}"
            self.decisions.append(Decision(f"{name} in INT8 again", why, cost, self._latency(name)))
        else:
            self.kept, self._last = kept, last

    def _now(self) -> ScoredDrop:
        """Score the groups in INT8 now on the samples searched."""
        found = together(self.graphs, self.evaluations, self.kept, part=SEARCHED, context=self.context)
        self._last = found
        self._tried.append((self.kept, found))
        left = len(self.graphs.groups) - len(self.kept)
        self.context.progress(left, None, f"layer groups back in FP32, drop {number_text(found.drop)}")
        return found

    def _cost_per_gain(self, name: str) -> tuple[float, float]:
        """Rank a group: what it costs alone in the metric, then in noise, for each share of the latency it saves."""
        alone = next(found for group, found in self.ranked if group.name == name)
        gain = 1.0
        if self.gains is not None:
            gain = max(self.gains.without[name].ratio - 1.0, _SMALLEST_GAIN)
        return max(alone.drop, 0.0) / gain, math.pow(10.0, -max(alone.score.sqnr_db, -300.0) / 10.0) / gain

    def _decided(self, name: str, done: str, why: str, *, gain: str) -> None:
        self.decisions.append(Decision(f"{name} {done}", why, self._latency(name), gain))

    def _latency(self, name: str) -> str:
        if self.gains is None:
            return "not measured"
        found = self.gains.without[name]
        low, high = found.ratio_interval
        return f"{found.ratio:.3g} times the latency without its INT8 ({low:.3g} to {high:.3g})"

    def _unmeetable(self, why: str, *, hint: str = _SPEND_ELSEWHERE) -> BudgetError:
        fused, limit = self.evaluations.scorer, self.budget.max_drop
        message = f"{self.context.component}: the budget, max_drop {number_text(limit)} of {fused.metric}, {why}"
        best: dict[str, Any] = {}
        if self._tried:
            names, found = min(self._tried, key=lambda tried: (tried[1].drop, -len(tried[0])))
            best = {"int8": list(names), **as_metadata(scored(found))}
            message += (
                f"; the best found has {_listed(names, len(self.graphs.groups))} in INT8 and loses"
                f" {number_text(found.drop)}{found.range_text} on {found.score.samples} samples"
            )
        return BudgetError(message, hint=hint, best=best)


def _listed(names: Sequence[str], total: int) -> str:
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{len(names)} of {total} layer groups ({shown})"
