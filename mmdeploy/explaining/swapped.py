"""The loss of a metric, one component swapped at a time into the served FP32 ensemble, and out of the shipped one.

Both forms of every component are served, by a Triton each; the ensemble is walked from here, component by component, so
that any mix of them can be asked. Losses are paired: the same samples, each with itself. Of a cascade every component
is asked for every sample, and what it leaves to whom is decided here, by the code that decides in the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core.samples import Samples
from mmdeploy.explaining.findings import OPEN, Section, Share, concluded, loss
from mmdeploy.gates import accuracy
from mmdeploy.scoring import ask
from mmdeploy.scoring.comparison import Comparison
from mmdeploy.worker.early_answers import leaving

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Array
    from mmdeploy.core.contracts import Deployment, Evidence, WiredComponent
    from mmdeploy.core.labels import Labels
    from mmdeploy.recipe.cascade import Cascade
    from mmdeploy.scoring.scored import Scored
    from mmdeploy.scoring.task_metric import TaskMetric

Mix = frozenset[str]
_LEAVING = "FP32, every row by the whole model → FP32, rows leave early"


@dataclass(frozen=True)
class Besides:
    """What is asked besides the candidate and its reference.

    Attributes:
        unquantized: Runs components as their torch passes left them.
        passed: The components that have such passes.
        cascade: Who answers early, and when; None where every sample runs all.
        originals: Runs, in FP32, components that the reference does not serve: those that only answer early.
        only_early: These components.
    """

    unquantized: Deployment | None = None
    passed: tuple[str, ...] = ()
    cascade: Cascade | None = None
    originals: Deployment | None = None
    only_early: tuple[str, ...] = ()


class MixedEnsemble:
    """An ensemble of which each component is the candidate's or the reference's; what was asked once is kept."""

    def __init__(self, evidence: Evidence, outputs: tuple[str, ...], besides: Besides) -> None:
        self._evidence, self._outputs, self._besides = evidence, outputs, besides
        self._answers: dict[tuple[str, Mix], Mapping[str, Array]] = {}

    def answers(self, candidates: Mix, unquantized: Mix = frozenset(), *, plain: bool = False) -> dict[str, Array]:
        """Return the outputs where these components are the candidate's, and all others the reference's.

        Args:
            candidates: Those as they are shipped.
            unquantized: Those as their torch passes left them, in FP32.
            plain: Whether nothing leaves early.
        """
        tensors = self._tensors(candidates, unquantized)
        found = {name: tensors[name] for name in self._outputs}
        cascade = self._besides.cascade
        if cascade is None or plain:
            return found
        left = leaving(cascade, tensors)
        early = {name: tensors[cascade.answers[name]] for name in found if name in cascade.answers}
        return found | {name: chosen(left, column, found[name]) for name, column in early.items()}

    def left(self, candidates: Mix) -> Array:
        """Say of each sample whether it leaves early [samples]; there is a cascade."""
        assert self._besides.cascade is not None
        return leaving(self._besides.cascade, self._tensors(candidates))

    def _tensors(self, candidates: Mix, unquantized: Mix = frozenset()) -> dict[str, Array]:
        """Return every tensor of a mix."""
        evidence, besides = self._evidence, self._besides
        written = {tensor for part in evidence.components for tensor in part.outputs.values()}
        tensors: dict[str, Array] = {name: column for name, column in evidence.original.items() if name not in written}
        tensors |= dict(evidence.feeds)
        made_by: dict[str, Mix] = {}
        for part in evidence.components:
            mix = frozenset[str]().union(*(made_by.get(source, frozenset()) for source in part.inputs.values()))
            mix |= {part.name} & candidates
            mix |= {f"{name} in FP32" for name in {part.name} & unquantized}
            deployment = evidence.candidate if part.name in candidates else evidence.reference
            if part.name in besides.only_early and part.name not in candidates and besides.originals is not None:
                deployment = besides.originals
            if part.name in unquantized and besides.unquantized is not None:
                deployment = besides.unquantized
            for name, column in self._of(part, mix, tensors, deployment).items():
                tensors[part.outputs[name]], made_by[part.outputs[name]] = column, mix
        return tensors

    def _of(
        self, part: WiredComponent, mix: Mix, tensors: Mapping[str, Array], deployment: Deployment
    ) -> Mapping[str, Array]:
        known = self._answers.get((part.name, mix))
        if known is None:
            evidence = self._evidence
            feeds = Samples({name: tensors[source] for name, source in part.inputs.items()})
            known = ask.answers(
                deployment,
                part.name,
                feeds,
                max_batch_size=evidence.max_batch_size,
                progress=evidence.progress,
                what=f"samples, {part.name} behind {', '.join(sorted(mix)) or 'FP32'}",
            )
            self._answers[part.name, mix] = known
        return known


@dataclass(frozen=True)
class Swapped:
    """What swapping came to.

    Attributes:
        sections: Stage by stage, each component alone, each component taken back.
        conclusion: What they say.
        worst: The component that loses most by its figure, or None where none loses.
    """

    sections: tuple[Section, ...]
    conclusion: str
    worst: str | None


def chosen(those: Array, column: Array, others: Array) -> Array:
    """Return a column whose rows are those of one where a mask is true, and of another elsewhere."""
    found = others.copy()
    found[those] = column[those]
    return found


def cannot_be_swapped(evidence: Evidence, outputs: tuple[str, ...]) -> str | None:
    """Say why an ensemble cannot be walked component by component; None where it can."""
    partial = [part.name for part in evidence.components if part.samples is not None]
    if partial:
        return f"{', '.join(partial)} run for some requests only: components are not swapped where inputs are optional"
    written = {tensor for part in evidence.components for tensor in part.outputs.values()}
    made = [name for name in outputs if name not in written]
    return f"{', '.join(made)} is made by a step behind the components: these are not swapped" if made else None


def swapped(options: accuracy.Options, evidence: Evidence, besides: Besides) -> Swapped:
    """Measure what each component loses of the metric of an accuracy gate.

    Args:
        options: Of the gate.
        evidence: Both deployments, up and ready.
        besides: What else is asked.

    Raises:
        MetricError: If the metric cannot be loaded or computed.
        InferenceError: If a component refuses a sample.
    """
    labels = evidence.labels
    assert labels is not None  # the gate has been judged on them
    metric = accuracy.opened(options, evidence.ensemble_outputs, evidence.root)
    losses = _Losses(metric, MixedEnsemble(evidence, tuple(metric.outputs), besides), labels, options, evidence.seed)
    names = [part.name for part in evidence.components]
    reference, whole = losses.scored(), losses.scored(*names)
    plain = losses.mixed.answers(frozenset(), plain=True)
    every, original = losses.of(plain), losses.of(evidence.original)
    chain = [
        _loss("PyTorch → FP32, served", losses.compared(every, original)),
        *([_loss(_LEAVING, losses.compared(reference, every))] if besides.cascade is not None else []),
        _loss("FP32, served → as shipped", losses.compared(whole, reference)),
        _loss("all", losses.compared(whole, original)),
    ]
    ways = [_by_way(losses, names, plain)] if besides.cascade is not None else []
    alone = {name: losses.compared(losses.scored(name), reference) for name in names}
    back = {name: losses.compared(whole, losses.scored(*(other for other in names if other != name))) for name in names}
    level = f"{options.confidence * 100:.4g} % intervals"
    by_component = _section(f"component by component: loss of {metric.name} where only it is as shipped", alone)
    sections = (
        Section(f"stage by stage: loss of {metric.name}, {level}", tuple(chain)),
        *ways,
        by_component,
        _section(f"component by component: loss that goes where it alone is left in FP32, of {metric.name}", back),
        *(_passes_of(losses, name, reference) for name in besides.passed),
    )
    smallest = losses.compared(whole, reference).smallest_effect
    worst = max(names, key=lambda name: alone[name].drop)
    return Swapped(
        sections,
        _conclusion(tuple(chain), by_component.shares, smallest),
        worst if alone[worst].drop > 0 else None,
    )


@dataclass(frozen=True)
class _Losses:
    """The metric of mixes, and how they differ."""

    metric: TaskMetric
    mixed: MixedEnsemble
    labels: Labels
    options: accuracy.Options
    seed: int

    def of(self, answers: Mapping[str, Array]) -> Scored:
        return self.metric.scored(answers, self.labels)

    def scored(self, *candidates: str) -> Scored:
        return self.of(self.mixed.answers(frozenset(candidates)))

    def compared(self, after: Scored, before: Scored) -> Comparison:
        return Comparison(after, before, self.metric.larger_is_better, self.options.confidence, self.seed)


def _by_way(losses: _Losses, names: Sequence[str], plain: Mapping[str, Array]) -> Section:
    """Measure what a cascade loses on the samples that leave early, and on the others."""
    every, answers = losses.of(plain), losses.mixed.answers(frozenset(names))
    left, wanted = losses.mixed.left(frozenset(names)), losses.mixed.left(frozenset())
    shares = []
    for what, those in (("left early", left), ("asked further", ~left)):
        found = losses.of({name: chosen(those, column, plain[name]) for name, column in answers.items()})
        shares.append(_loss(f"{what}, {those.mean():.1%} of the samples", losses.compared(found, every)))
    return Section(
        f"by the way that samples go: loss of {losses.metric.name} where only these are as shipped, the others by the "
        "whole model in FP32",
        tuple(shares),
        f"{int((left != wanted).sum())} of {len(left)} go another way than in FP32",
    )


def _passes_of(losses: _Losses, name: str, reference: Scored) -> Section:
    """Measure what the torch passes of a component lose, and what comes after them."""
    found = losses.of(losses.mixed.answers(frozenset(), frozenset({name})))
    return Section(
        f"{name}, stage by stage: loss of {losses.metric.name}, all else in FP32",
        (
            _loss("original → torch passes", losses.compared(found, reference)),
            _loss("torch passes → as shipped", losses.compared(losses.scored(name), found)),
        ),
        "in between its exported graph, run in this process",
    )


def _conclusion(chain: tuple[Share, ...], alone: tuple[Share, ...], smallest: float | None) -> str:
    exported, *leaving_early, shipped, _ = chain
    told = concluded(alone, "component", smallest=smallest)
    if exported.told == "loses":
        told = f"exporting and serving in FP32 already loses; {told}"
    for one in leaving_early:
        lost = "cannot be told from losing nothing" if one.told == OPEN else one.told
        told = f"leaving early by itself, all in FP32, {lost}; {told}"
    if shipped.told != "loses":
        told += "; what all components lose together cannot be told from none"
    return told


def _section(title: str, found: Mapping[str, Comparison]) -> Section:
    shares = [_loss(name, one) for name, one in sorted(found.items(), key=lambda one: -one[1].drop)]
    return Section(title, tuple(shares))


def _loss(what: str, found: Comparison) -> Share:
    return loss(what, found.drop, found.drop_interval)
