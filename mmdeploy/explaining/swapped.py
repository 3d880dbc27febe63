"""The loss of a metric, one component swapped at a time into the served FP32 ensemble, and out of the shipped one.

Both forms of every component are served, by a Triton each; the ensemble is walked from here, component by component, so
that any mix of them can be asked. Losses are paired: the same samples, each with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core.samples import Samples
from mmdeploy.explaining.findings import Section, Share, concluded, loss
from mmdeploy.gates import accuracy
from mmdeploy.scoring import ask
from mmdeploy.scoring.comparison import Comparison

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Array
    from mmdeploy.core.contracts import Deployment, Evidence, WiredComponent
    from mmdeploy.scoring.scored import Scored

Mix = frozenset[str]


class MixedEnsemble:
    """An ensemble of which each component is the candidate's or the reference's; what was asked once is kept."""

    def __init__(self, evidence: Evidence, outputs: tuple[str, ...], unquantized: Deployment | None = None) -> None:
        self._evidence, self._outputs, self._unquantized = evidence, outputs, unquantized
        self._answers: dict[tuple[str, Mix], Mapping[str, Array]] = {}

    def answers(self, candidates: Mix, unquantized: Mix = frozenset()) -> dict[str, Array]:
        """Return the outputs where these components are the candidate's, and all others the reference's.

        Args:
            candidates: Those as they are shipped.
            unquantized: Those as their torch passes left them, in FP32.
        """
        evidence = self._evidence
        written = {tensor for part in evidence.components for tensor in part.outputs.values()}
        tensors: dict[str, Array] = {name: column for name, column in evidence.original.items() if name not in written}
        tensors |= dict(evidence.feeds)
        made_by: dict[str, Mix] = {}
        for part in evidence.components:
            mix = frozenset[str]().union(*(made_by.get(source, frozenset()) for source in part.inputs.values()))
            mix |= {part.name} & candidates
            mix |= {f"{name} in FP32" for name in {part.name} & unquantized}
            deployment = evidence.candidate if part.name in candidates else evidence.reference
            if part.name in unquantized and self._unquantized is not None:
                deployment = self._unquantized
            for name, column in self._of(part, mix, tensors, deployment).items():
                tensors[part.outputs[name]], made_by[part.outputs[name]] = column, mix
        return {name: tensors[name] for name in self._outputs}

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


def cannot_be_swapped(evidence: Evidence, outputs: tuple[str, ...]) -> str | None:
    """Say why an ensemble cannot be walked component by component; None where it can."""
    if evidence.cascade is not None:
        return (
            "a cascade asks components for some rows only: they are not swapped; `mmdeploy debug` looks at each alone"
        )
    partial = [part.name for part in evidence.components if part.samples is not None]
    if partial:
        return f"{', '.join(partial)} run for some requests only: components are not swapped where inputs are optional"
    written = {tensor for part in evidence.components for tensor in part.outputs.values()}
    made = [name for name in outputs if name not in written]
    return f"{', '.join(made)} is made by a step behind the components: these are not swapped" if made else None


def swapped(
    options: accuracy.Options, evidence: Evidence, unquantized: Deployment | None = None, passed: tuple[str, ...] = ()
) -> Swapped:
    """Measure what each component loses of the metric of an accuracy gate.

    Args:
        options: Of the gate.
        evidence: Both deployments, up and ready.
        unquantized: Runs components as their torch passes left them.
        passed: The components that have such passes.

    Raises:
        MetricError: If the metric cannot be loaded or computed.
        InferenceError: If a component refuses a sample.
    """
    labels = evidence.labels
    assert labels is not None  # the gate has been judged on them
    metric = accuracy.opened(options, evidence.ensemble_outputs, evidence.root)
    mixed = MixedEnsemble(evidence, tuple(metric.outputs), unquantized)
    names = [part.name for part in evidence.components]

    def scored(*candidates: str) -> Scored:
        return metric.scored(mixed.answers(frozenset(candidates)), labels)

    def compared(after: Scored, before: Scored) -> Comparison:
        return Comparison(after, before, metric.larger_is_better, options.confidence, evidence.seed)

    original, reference, whole = metric.scored(evidence.original, labels), scored(), scored(*names)
    chain = (
        _loss("PyTorch → FP32, served", compared(reference, original)),
        _loss("FP32, served → as shipped", compared(whole, reference)),
        _loss("all", compared(whole, original)),
    )
    alone = {name: compared(scored(name), reference) for name in names}
    back = {name: compared(whole, scored(*(other for other in names if other != name))) for name in names}
    pruned = {name: metric.scored(mixed.answers(frozenset(), frozenset({name})), labels) for name in passed}
    chains = [
        Section(
            f"{name}, stage by stage: loss of {metric.name}, all else in FP32",
            (
                _loss("original → torch passes", compared(found, reference)),
                _loss("torch passes → as shipped", compared(scored(name), found)),
            ),
            "in between its exported graph, run in this process",
        )
        for name, found in pruned.items()
    ]
    level = f"{options.confidence * 100:.4g} % intervals"
    sections = (
        Section(f"stage by stage: loss of {metric.name}, {level}", chain),
        _section(f"component by component: loss of {metric.name} where only it is as shipped", alone),
        _section(f"component by component: loss that goes where it alone is left in FP32, of {metric.name}", back),
    )
    smallest = compared(whole, reference).smallest_effect
    worst = max(names, key=lambda name: alone[name].drop)
    return Swapped(
        (*sections, *chains),
        _conclusion(chain, sections[1].shares, smallest),
        worst if alone[worst].drop > 0 else None,
    )


def _conclusion(chain: tuple[Share, ...], alone: tuple[Share, ...], smallest: float | None) -> str:
    exported, shipped, _ = chain
    told = concluded(alone, "component", smallest=smallest)
    if exported.told == "loses":
        told = f"exporting and serving in FP32 already loses; {told}"
    if shipped.told != "loses":
        told += "; what all components lose together cannot be told from none"
    return told


def _section(title: str, found: Mapping[str, Comparison]) -> Section:
    shares = [_loss(name, one) for name, one in sorted(found.items(), key=lambda one: -one[1].drop)]
    return Section(title, tuple(shares))


def _loss(what: str, found: Comparison) -> Share:
    return loss(what, found.drop, found.drop_interval)
