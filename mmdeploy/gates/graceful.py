"""Graceful: how much does the served candidate lose where an input is missing?

What it does: asks the served ensemble for every evaluation sample twice, whole and without the inputs of a subset of
the modalities, scores both by the metric of your task, and compares the loss with ``max_drop_when_missing``. Unlike
``accuracy``, which compares the candidate with the original in the same situation, this is what the missing input
costs.
How it decides: by the point estimate (``rule: estimate``, the default) or by the whole interval of the paired
comparison (``rule: interval``), as ``accuracy`` does, with the same metrics and the same intervals.
When to choose it: whenever a recipe has optional inputs and somebody relies on the answer without one of them.
What it needs: labels, and a limit for each subset that matters: by the name of an input, or by several joined with
``+``, such as ``{audio: 0.05, audio+text: 0.2}``. The subsets must be among those that the recipe judges
(``subsets``; by default each optional input alone).
Limits: what a missing input costs is mostly the model's: strategy ``learned`` or ``skip``, and training with
``modality_dropout``, lower it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator

from mmdeploy.core.contracts import Array, Check, Evidence, EvidenceSubset, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import DataError
from mmdeploy.gates import accuracy, advising, answers, limits
from mmdeploy.gates.subsets import of_subset
from mmdeploy.scoring import ask
from mmdeploy.scoring.builtin import METRICS
from mmdeploy.scoring.comparison import Comparison
from mmdeploy.scoring.metric_spec import REFERENCE, MetricSpec
from mmdeploy.scoring.scored import Scored
from mmdeploy.scoring.task_metric import TaskMetric

REQUIRES: tuple[str, ...] = ("scipy", "torch", "torchmetrics")
NEEDS_LABELS = True

#: Joins the inputs of a subset in a key of ``max_drop_when_missing``.
_JOINS = "+"


class Options(MethodOptions):
    """Limits of the graceful gate; at least one.

    Attributes:
        max_drop_when_missing: Largest loss against whole requests, in the metric's unit, by what is missing.
        metric: What is scored, as in ``accuracy``.
        arguments: For the metric.
        outputs: The ensemble's outputs that the metric sees.
        larger_is_better: Direction of a metric that does not say it itself.
        confidence: Of the intervals.
        rule: Decide by the point estimate or by the whole interval.
    """

    method: Literal["graceful"] = "graceful"
    max_drop_when_missing: dict[str, float] = Field(min_length=1)
    metric: accuracy.Metric = Field("top1", json_schema_extra={"anyOf": [{"enum": [*METRICS]}, {"pattern": REFERENCE}]})
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    outputs: tuple[str, ...] | None = Field(default=None, min_length=1)
    larger_is_better: bool | None = None
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    rule: Literal["estimate", "interval"] = "estimate"

    @field_validator("max_drop_when_missing")
    @classmethod
    def _drops_are_drops(cls, given: dict[str, float]) -> dict[str, float]:
        for name, limit in given.items():
            if not 0.0 <= limit < float("inf"):
                raise ValueError(f"{name}: {limit:g} is no drop: 0 or more")
        return given

    def limits(self) -> dict[frozenset[str], float]:
        """Return the limit by the inputs that are missing."""
        return {frozenset(name.split(_JOINS)): limit for name, limit in self.max_drop_when_missing.items()}

    def spec(self, ensemble_outputs: tuple[str, ...]) -> MetricSpec:
        """Return the metric that is asked for."""
        return self.scored_by().spec(ensemble_outputs)

    def scored_by(self, limit: float = 0.0) -> accuracy.Options:
        """Return the options of an accuracy gate that scores and decides alike."""
        same = {"metric", "arguments", "outputs", "larger_is_better", "confidence", "rule"}
        return accuracy.Options(max_drop=limit, **self.model_dump(include=same))


def check(options: Options, evidence: Evidence) -> GateResult:
    """Score whole requests and those of each subset that has a limit; answers that are refused fail.

    Raises:
        DataError: If there are no samples, no labels, or a limit is for what is not judged.
        MetricError: If the metric cannot be loaded, or fails.
    """
    ask.sample_count(evidence)
    if evidence.labels is None:
        raise DataError(
            f"the graceful gate ({options.metric}) needs labels, but the evaluation data has none",
            hint="let the callable that data.evaluation names give a label with each sample",
        )
    judged = {frozenset(subset.without): subset for subset in evidence.subsets}
    for wanted in options.limits():
        if wanted not in judged:
            known = ", ".join(_JOINS.join(subset.without) for subset in evidence.subsets) or "none"
            raise DataError(
                f"the graceful gate limits {_JOINS.join(sorted(wanted))}, which is no subset that is judged ({known})",
                hint="list it under the recipe's subsets",
            )
    metric = accuracy.opened(options.scored_by(), evidence.ensemble_outputs, evidence.root)
    whole = accuracy.answers_of(evidence.candidate, "candidate", metric, evidence)
    if isinstance(whole, str):
        return GateResult("graceful", (Check(metric.name, None, _all_limits(options), Verdict.FAIL, note=whole),))
    full, checks, details = metric.scored(whole, evidence.labels), list[Check](), dict[str, Any]()
    for wanted, limit in options.limits().items():
        subset = judged[wanted]
        found, details[subset.label] = _subset(metric, (whole, full), subset, (options, limit), evidence)
        checks += found
    figures = {
        "metric": metric.name, "larger_is_better": metric.larger_is_better, "whole": full.score, "missing": details,
        **advising.done(evidence),
    }  # fmt: skip
    rested = limits.resting_on(checks, len(evidence.labels))
    return GateResult("graceful", answers.of_whom(rested, evidence), figures)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what makes a missing input cost less."""
    told = (
        "what a missing input costs is mostly the model's: try `strategy: mean`, a `learned` stand-in or a head that "
        "takes presence (`skip`), and train with `modality_dropout`"
    )
    return advising.advised(result, failed=told, undecided=advising.MORE_SAMPLES)


def _subset(
    metric: TaskMetric,
    whole: tuple[Mapping[str, Array], Scored],
    subset: EvidenceSubset,
    asked: tuple[Options, float],
    evidence: Evidence,
) -> tuple[list[Check], Mapping[str, Any]]:
    """Score a subset; return its check and its figures."""
    (options, limit), (full_answers, full) = asked, whole
    name = f"{metric.name} drop {subset.label}"
    seen = of_subset(evidence, subset)
    found = accuracy.answers_of(evidence.candidate, "candidate", metric, seen)
    if isinstance(found, str):
        return [Check(name, None, limits.in_words(at_most=limit), Verdict.FAIL, note=found)], {"problem": found}
    assert seen.labels is not None
    scored = metric.scored(found, seen.labels)
    if subset.samples is not None:  # whole requests of the same samples
        full = metric.scored(ask.select(full_answers, subset.samples), seen.labels)
    comparison = Comparison(scored, full, metric.larger_is_better, options.confidence, evidence.seed)
    check = accuracy.judged_drop(name, comparison, options.scored_by(limit))
    return [check], {"score": scored.score, "drop": comparison.drop, "limit": limit}


def _all_limits(options: Options) -> str:
    return ", ".join(_limits(options))


def _limits(options: Options) -> Iterator[str]:
    for name, limit in options.max_drop_when_missing.items():
        yield f"drop without {name} <= {limit:g}"
