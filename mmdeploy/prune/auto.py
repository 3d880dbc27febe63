"""Search the ratio of structured pruning: the fastest of a ladder that loses no more than the budget.

What it does to the numbers: that of structured pruning with the ratio that is chosen. The ratios of the ladder are
tried from the smallest: the component is pruned, trained for a short while where ``recovery`` says how, and judged in
its place in the model, in PyTorch: everything else is the original. Of the ratios that lose at most ``max_drop`` of the
task's metric on one half of the validation samples, the one is taken whose export is fastest on the component's own
engine in FP32 (of those that cannot be told apart, the smallest), and verified on the other half; where it fails there,
the next.

When to choose it: to find a ratio without trying recipes by hand. The result says which section without a search
(``plain``) gives the same module. What it ships is not trained: a ``recover`` section trains it as long as it takes.

What it needs: training and validation data. Without ``recovery`` candidates are judged as pruning left them, which
allows small ratios only; one or two epochs show what training will bring.

Limits: where the engine cannot run on this machine, or with ``must_pay: false``, nothing is timed and the fewest FLOPs
win, which is not always the fastest. INT8 that follows is not part of the measurement. The ladder is left after two
ratios in a row that break the budget. Recovery chooses its best epoch on the whole validation split, so the samples
held back are new to the search but not to it. Trains in one process.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import LatencyEstimate, StepContext
from mmdeploy.core.errors import BudgetError, PruneError
from mmdeploy.core.facts import as_metadata, read
from mmdeploy.model.costs import COSTS, CostChange
from mmdeploy.model.torch_component import component_facts, load_component
from mmdeploy.prune import structured
from mmdeploy.prune.module_scorer import ModuleScorer
from mmdeploy.scoring.evaluations import (
    DEFAULT_MAX_DROP,
    HELD_BACK,
    SEARCHED,
    Budget,
    Evaluations,
    Journal,
    ScoredDrop,
    number_text,
)
from mmdeploy.scoring.findings import Decision, PlainSection, SearchFindings, scored
from mmdeploy.training.loop import fit
from mmdeploy.training.options import TrainingOptions

CONSUMES = "torch"
PRODUCES = "torch"
REQUIRES: tuple[str, ...] = ("accelerate", "scipy", "torch", "torch_pruning", "torchmetrics")
#: It times graphs: nothing may run beside it.
MEASURES = True

Ratio = Annotated[float, Field(gt=0, lt=1)]
#: Ratios in a row that break the budget, after which larger ones are not tried.
_GIVE_UP_AFTER = 2
#: Modules timed side by side, besides the original.
_SIDE_BY_SIDE = 4
_ORIGINAL = "original"


class Recovery(TrainingOptions):
    """A short training of each candidate before it is judged."""

    epochs: Annotated[int, Field(ge=1, description="Passes over the training split.")] = 1


class Options(structured.Cut):
    """Options of the search for a ratio.

    Attributes:
        method: ``auto``.
        max_drop: Largest loss of the task's metric at the ensemble's output against the original, in its unit.
            Null takes that of the accuracy gate whose metric it is, or 0.01.
        ratios: The ladder: shares of the channels, MLP units and heads that go.
        recovery: How each candidate is trained before it is judged; null judges it as pruning left it.
        rule: Whether the estimate of the loss on the samples held back must keep ``max_drop``, or its whole interval.
        confidence: Of the intervals.
        must_pay: Time the candidates on the component's engine; false takes the fewest FLOPs.
    """

    method: Literal["auto"] = "auto"
    max_drop: Annotated[float, Field(ge=0.0)] | None = None
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    recovery: Recovery | None = None
    rule: Literal["estimate", "interval"] = "estimate"
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    must_pay: bool = True


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads."""
    return frozenset({"training", "validation"})


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Search, and prune with the ratio that was found.

    Args:
        artifact: The component.
        options: Of this pass.
        context: Of the step; ``training``, ``timed`` and, to go on after a kill, ``scratch`` are used.

    Returns:
        The module, not trained; metadata: that of structured pruning and ``plain`` (the section that gives the same
        without a search), ``decisions``, ``ladder`` (each ratio with what it loses and saves), ``result``,
        ``searched``, ``held_back``, ``metric``, ``max_drop``, ``evaluations``, ``evaluation_seconds``, ``seconds``.

    Raises:
        PruneError: Without training and validation data, or when no ratio of the ladder can be pruned.
        BudgetError: When no ratio keeps the budget; it carries the best found.
    """
    if context.training is None:
        raise PruneError(
            f"{context.component}: `prune: auto` judges each ratio in the model, and the recipe lacks the data",
            hint="name callables that yield (feed, label) under `data.training` and `data.validation`",
        )
    return _Run(artifact, options, context).artifact()


@dataclass(frozen=True)
class _Rung:
    """A ratio of the ladder that was tried.

    Attributes:
        ratio: Share that went.
        pruned: The module as pruning left it.
        searched: What it loses on the samples searched.
        held_back: What it loses on those held back; not looked at before the ratio is chosen.
    """

    ratio: float
    pruned: Artifact
    searched: ScoredDrop
    held_back: ScoredDrop

    @property
    def label(self) -> str:
        return f"ratio {self.ratio:g}"

    @property
    def flops_ratio(self) -> float:
        return self._costs.after.flops / max(1, self._costs.before.flops)

    @property
    def parameters_ratio(self) -> float:
        return self._costs.after.parameters / max(1, self._costs.before.parameters)

    @property
    def _costs(self) -> CostChange:
        return read(CostChange, self.pruned, under=COSTS)


class _Run:
    """One run of the pass."""

    def __init__(self, artifact: Artifact, options: Options, context: StepContext) -> None:
        assert context.training is not None
        self._started = time.perf_counter()
        self._source, self._options, self._context = artifact, options, context
        self._journal = Journal(context.scratch / "evaluations.jsonl" if context.scratch else None)
        self._scorer = ModuleScorer(context.training)
        self._evaluations = Evaluations(self._scorer, self._journal, confidence=options.confidence, seed=context.seed)
        self._budget = Budget(
            DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop, by_interval=options.rule == "interval"
        )
        self._decisions: list[Decision] = []
        self._latencies: dict[str, LatencyEstimate] = {}

    def artifact(self) -> Artifact:
        """Search and return the module pruned with the ratio chosen."""
        rungs = self._ladder()
        within = [rung for rung in rungs if self._budget.kept(rung.searched)]
        for rung in self._by_speed(within):
            if self._budget.proven(rung.held_back):
                return self._product(rung, rungs)
            why = f"the samples held back lose {number_text(rung.held_back.drop)}{rung.held_back.range_text}"
            self._decided(f"{rung.label} is not taken", why, rung)
        raise self._unmeetable(rungs)

    def _ladder(self) -> list[_Rung]:
        rungs: list[_Rung] = []
        refused: PruneError | None = None
        broken = 0
        ratios = sorted(set(self._options.ratios))
        for done, ratio in enumerate(ratios):
            self._context.progress(done, len(ratios), "pruning ratios judged")
            try:
                rung = self._rung(ratio)
            except PruneError as error:
                refused = error
                self._decisions.append(Decision(f"ratio {ratio:g} cannot be pruned", error.message))
                continue
            rungs.append(rung)
            kept = self._budget.kept(rung.searched)
            self._decided(f"{rung.label} tried", "keeps the budget" if kept else "breaks the budget", rung)
            broken = 0 if kept else broken + 1
            if broken == _GIVE_UP_AFTER:
                break
        if not rungs and refused is not None:
            raise refused
        return rungs

    def _rung(self, ratio: float) -> _Rung:
        pruned = self._pruned(ratio, f"ratio-{ratio:g}")
        modules: list[Any] = []

        def module() -> Any:
            if not modules:
                modules.append(self._recovered(pruned, ratio))
            return modules[0]

        searched = self._evaluations.drop_of(f"ratio {ratio:g}", module, SEARCHED)
        held_back = self._evaluations.drop_of(f"ratio {ratio:g}", module, HELD_BACK)
        return _Rung(ratio, pruned, searched, held_back)

    def _pruned(self, ratio: float, folder: str) -> Artifact:
        workdir = self._context.workdir / folder
        workdir.mkdir()
        options = structured.Options.model_validate(self._plain(ratio))
        return structured.run(self._source, options, replace(self._context, workdir=workdir))

    def _recovered(self, pruned: Artifact, ratio: float) -> Any:
        module = load_component(pruned)
        if self._options.recovery is None:
            return module
        scratch = self._context.scratch / f"ratio-{ratio:g}" if self._context.scratch else None
        if scratch is not None:
            scratch.mkdir(exist_ok=True)
        context = replace(self._context, scratch=scratch)
        fit(module, self._options.recovery, context, sparse=component_facts(pruned).sparse_parameters)
        return module

    def _by_speed(self, within: list[_Rung]) -> list[_Rung]:
        """Return the ratios that keep the budget, the fastest first; of those as fast, that of the fewest FLOPs."""
        by_flops = sorted(within, key=lambda rung: rung.flops_ratio)
        if self._context.timed is None or not self._options.must_pay or not within:
            return by_flops
        timed = by_flops[:_SIDE_BY_SIDE]
        self._latencies = found = self._measured(timed)
        fastest = min(found[rung.label].ratio for rung in timed)

        def rank(rung: _Rung) -> tuple[float, float]:
            one = found[rung.label]
            return (fastest if one.ratio_interval[0] <= fastest else one.ratio, rung.flops_ratio)

        return sorted(timed, key=rank) + by_flops[_SIDE_BY_SIDE:]

    def _measured(self, rungs: list[_Rung]) -> dict[str, LatencyEstimate]:
        timed = self._context.timed
        assert timed is not None
        modules = {_ORIGINAL: self._source} | {rung.label: rung.pruned for rung in rungs}
        found = self._journal.remembered(
            f"latency {sorted(modules)}",
            lambda: {label: dataclasses.asdict(one) for label, one in timed(modules).items()},
        )
        return {
            label: LatencyEstimate(one["median_ms"], one["ratio"], tuple(one["ratio_interval"]))
            for label, one in found.items()
        }

    def _product(self, chosen: _Rung, rungs: list[_Rung]) -> Artifact:
        self._decided(f"{chosen.label} taken", self._reason(chosen), chosen)
        for rung in rungs:
            shutil.rmtree(rung.pruned.path.parent)
        product = structured.run(
            self._source, structured.Options.model_validate(self._plain(chosen.ratio)), self._context
        )
        evaluations = self._evaluations
        findings = SearchFindings(
            decisions=tuple(self._decisions),
            metric=self._scorer.metric,
            max_drop=self._budget.max_drop,
            result=f"structured pruning with {chosen.label}",
            searched=scored(chosen.searched),
            held_back=scored(chosen.held_back),
            evaluations=evaluations.count,
            evaluation_seconds=evaluations.seconds,
            seconds=time.perf_counter() - self._started,
        )
        found = {
            **as_metadata(PlainSection(self._plain(chosen.ratio))),
            **as_metadata(findings),
            "ladder": [self._row(rung) for rung in rungs],
        }
        return replace(product, produced_by="auto", metadata={**product.metadata, **found})

    def _reason(self, chosen: _Rung) -> str:
        found = self._latencies.get(chosen.label)
        if found is None:
            return "fewest FLOPs of those that keep the budget; latency was not measured"
        if found.ratio_interval[1] >= 1.0:
            return "fewest FLOPs of those that keep the budget; none is measurably faster than the original"
        return "of those that keep the budget none is measurably faster on the component's engine"

    def _row(self, rung: _Rung) -> dict[str, Any]:
        latency = self._latencies.get(rung.label)
        return {
            "ratio": rung.ratio,
            "flops_ratio": rung.flops_ratio,
            "parameters_ratio": rung.parameters_ratio,
            "latency": dataclasses.asdict(latency) if latency else None,
            "searched": as_metadata(scored(rung.searched)),
            "held_back": as_metadata(scored(rung.held_back)),
        }

    def _decided(self, what: str, why: str, rung: _Rung) -> None:
        gain = f"{rung.flops_ratio:.3g} of the FLOPs, {rung.parameters_ratio:.3g} of the parameters"
        latency = self._latencies.get(rung.label)
        if latency is not None:
            low, high = latency.ratio_interval
            gain += f", {latency.ratio:.3g} of the latency ({low:.3g} to {high:.3g})"
        cost = f"drop {number_text(rung.searched.drop)}{rung.searched.range_text}"
        self._decisions.append(Decision(what, why, cost, gain))

    def _plain(self, ratio: float) -> dict[str, Any]:
        fields = self._options.model_dump(mode="json", include=set(structured.Cut.model_fields))
        return {"method": "structured", "ratio": ratio, **fields}

    def _unmeetable(self, rungs: list[_Rung]) -> BudgetError:
        best = min(rungs, key=lambda rung: (max(rung.searched.drop, rung.held_back.drop), rung.ratio))
        worst = max(best.searched, best.held_back, key=lambda found: found.drop)
        return BudgetError(
            f"{self._context.component}: no pruning ratio of the ladder keeps max_drop"
            f" {number_text(self._budget.max_drop)} of {self._scorer.metric}; the best found is {best.label}, which"
            f" loses {number_text(worst.drop)}{worst.range_text} on {worst.score.samples} samples",
            hint="try smaller ratios, give `recovery` more epochs, raise max_drop, or drop `prune`",
            best=self._row(best),
        )
