"""Accuracy: does the served candidate answer the user's own labelled samples as well as the PyTorch original?

What it does: scores the served ensemble and the original on the same evaluation samples, and compares the candidate's
score with ``min`` (``max`` where smaller is better) and its loss against the original with ``max_drop`` and
``max_relative_drop``. A drop is a loss of quality: a lower score, or a higher error.
How it decides: by the point estimate (``rule: estimate``, the default). The same samples and the same model give
the same figures, so the verdict is repeatable; it is a statement about *these* samples. The confidence interval,
from the paired comparison, says what other samples of the kind could have shown, and a note says so when it
includes the limit. With 500 samples a true drop of 2 points passes a limit of 1 in 15 of 100 cases: the report warns
where a drop of more than one and a half limits may pass. With ``rule: interval`` the whole interval must keep the limit
(a non-inferiority test): too few samples then make the gate ``inconclusive``.
Batches: all samples are asked in batches of ``max_batch_size``. Some (all, where what these lose breaks a limit) are
asked again one at a time, and in odd batches: what they lose against the same samples in the largest batches is taken
off, and the limits must still be kept; a check says so where they are not.
When to choose it: always, where labels exist. Metrics:
for class scores [samples, classes] ``top1`` (also called ``accuracy``), ``top5``, ``f1_macro``, ``auroc`` (one against
the rest, mean over the classes that occur), ``worst_class_recall`` (the worst class gates), ``map`` (a sample may be
of several classes), ``vqa_accuracy`` (min(n / 3, 1), labels are the annotators' answers), ``ece`` (the expected
calibration error: smaller is better); ``top1``, ``f1_macro``, ``worst_class_recall`` also of decided class ids;
for values ``mse``, ``mae``; for detected boxes ``box_map``;
for a retrieval ``recall_at_k``: over two embeddings, the first of ``outputs`` asks and the second is searched, so that
a gate each judges image to text and text to image; or over one output of similarities, in either ``direction``;
for token ids, or scores of tokens, ``wer``, ``bleu``, ``rouge``; for dense outputs ``iou``;
of your own ``metrics.py:wer`` (a file beside the recipe) or ``package.module:name``; any class of torchmetrics with its
``arguments``: ``metric: torchmetrics.retrieval:RetrievalRecall, arguments: {top_k: 5}``.
What it needs: labels, and at least one limit. ``outputs`` names what the metric sees: by default the first output of
the ensemble, and for a metric of your own all of them. Where labels are mappings, a built-in metric scores the label
that is called like its output, or as ``arguments: {label: intent}`` says.
Intervals: for right and wrong answers Wilson's (score) and Bonett and Price's (paired drop), and McNemar's exact
p-value; for other means over samples the wider of Student's t and the bootstrap-t, widened for heavy tails; for what
is no such mean the percentile bootstrap, up to 1000 resamples in a minute. The interval of a relative drop takes the
original's score as given.
Searches and training score with the metric, and keep the budget, of the first accuracy gate that has ``max_drop`` and
sees an output that the component feeds.
Limits: a limit finer than one sample (1 / samples) asks for no loss at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from mmdeploy.core.contracts import Array, Check, Deployment, Evidence, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import DataError, InferenceError, MetricError, StepError
from mmdeploy.core.samples import Samples, picked
from mmdeploy.gates import advising, answers, differences, limits, resolution
from mmdeploy.scoring import ask
from mmdeploy.scoring.builtin import METRICS
from mmdeploy.scoring.comparison import Comparison
from mmdeploy.scoring.kept import KEPT, kept
from mmdeploy.scoring.metric_spec import REFERENCE, MetricSpec, arguments_of, check_metric, spec_of
from mmdeploy.scoring.metrics import SLACK, Interval
from mmdeploy.scoring.task_metric import TaskMetric, open_metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mmdeploy.core.labels import Labels

REQUIRES: tuple[str, ...] = ("scipy", "torch", "torchmetrics")
#: Lets a build refuse unlabelled evaluation data before anything is served.
NEEDS_LABELS = True

#: Samples that are asked again one at a time, and in odd batches.
_SAMPLES_AGAIN = 128

Metric = Annotated[str, AfterValidator(check_metric)]


class Options(MethodOptions):
    """Limits of the accuracy gate; at least one.

    Attributes:
        metric: What is scored: a built-in metric, path.py:callable beside the recipe, or package.module:callable.
        arguments: For the metric.
        outputs: The ensemble's outputs that the metric sees.
        larger_is_better: Direction of a metric that does not say it itself.
        min: Lowest score of the candidate (only where larger is better).
        max: Highest score of the candidate (only where smaller is better).
        max_drop: Largest loss against the original, in the metric's unit.
        max_relative_drop: Largest loss as a share of the original's score.
        confidence: Of the intervals.
        rule: Decide by the point estimate or by the whole interval.
    """

    method: Literal["accuracy"] = "accuracy"
    metric: Metric = Field(json_schema_extra={"anyOf": [{"enum": [*METRICS]}, {"pattern": REFERENCE}]})
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    outputs: tuple[str, ...] | None = Field(default=None, min_length=1)
    larger_is_better: bool | None = None
    min: float | None = None
    max: float | None = None
    max_drop: float | None = Field(default=None, ge=0.0)
    max_relative_drop: float | None = Field(default=None, ge=0.0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    rule: Literal["estimate", "interval"] = "estimate"

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Self:
        if self.metric in METRICS:
            self._check_built_in()
        elif self.larger_is_better is not None:
            self.check_direction(self.metric, larger_is_better=self.larger_is_better)
        if all(limit is None for limit in (self.min, self.max, self.max_drop, self.max_relative_drop)):
            right = "max" if self.metric in METRICS and not METRICS[self.metric].larger_is_better else "min"
            raise ValueError(f"give at least one limit: {right}, max_drop or max_relative_drop")
        return self

    def _check_built_in(self) -> None:
        built_in = METRICS[self.metric]
        arguments_of(self.metric, self.arguments)
        self.check_direction(self.metric, larger_is_better=built_in.larger_is_better)
        if self.larger_is_better is not None:
            raise ValueError(f"larger_is_better is for metrics of your own: {self.metric} says it itself")
        if self.outputs is not None and len(self.outputs) > built_in.most_outputs:
            most = "one output" if built_in.most_outputs == 1 else f"up to {built_in.most_outputs} outputs"
            raise ValueError(f"{self.metric} sees {most}, not {len(self.outputs)}: give a gate to each")

    def check_direction(self, name: str, *, larger_is_better: bool) -> None:
        """Check that the limit on the score is on the right side.

        Raises:
            ValueError: If it is not.
        """
        wrong, right = ("max", "min") if larger_is_better else ("min", "max")
        if getattr(self, wrong) is not None:
            raise ValueError(f"{wrong} makes no sense for {name}: use {right}")

    def spec(self, ensemble_outputs: Sequence[str]) -> MetricSpec:
        """Return the metric that is asked for."""
        return spec_of(
            self.metric, ensemble_outputs, outputs=self.outputs, arguments=self.arguments,
            larger_is_better=self.larger_is_better,
        )  # fmt: skip


def opened(options: Options, ensemble_outputs: Sequence[str], root: Path) -> TaskMetric:
    """Make the metric ready to score.

    Raises:
        MetricError: If it cannot be loaded, or is limited on the wrong side.
    """
    metric = open_metric(options.spec(ensemble_outputs), root)
    try:
        options.check_direction(metric.name, larger_is_better=metric.larger_is_better)
    except ValueError as error:
        raise MetricError(f"the accuracy gate: {error}") from error
    return metric


def check(options: Options, evidence: Evidence) -> GateResult:
    """Score the candidate and the original; answers that are refused, misshapen or not finite fail.

    Raises:
        DataError: If there are no samples, no labels, or labels that the metric cannot take.
        MetricError: If the metric cannot be loaded, fails, or gives something that is no score.
    """
    ask.sample_count(evidence)
    labels = evidence.labels
    if labels is None:
        raise DataError(
            f"the accuracy gate ({options.metric}) needs labels, but the evaluation data has none",
            hint="let the callable that data.evaluation names give a label with each sample",
        )
    metric = opened(options, evidence.ensemble_outputs, evidence.root)
    original = metric.scored(evidence.original, labels)
    answered = _answers(evidence.candidate, "candidate", metric, evidence)
    if isinstance(answered, str):
        return GateResult("accuracy", (_unanswered(metric.name, answered, options),))
    candidate = metric.scored(answered, labels)
    comparison = Comparison(candidate, original, metric.larger_is_better, options.confidence, evidence.seed)
    details = comparison.to_json() | {
        "metric": metric.name, "larger_is_better": metric.larger_is_better, "source": options.metric,
        "outputs": list(metric.outputs), "arguments": options.arguments, "rule": options.rule,
        **advising.done(evidence),
    }  # fmt: skip
    if candidate.per_unit is not None:
        details[KEPT] = kept(candidate.per_unit)
    served_reference = _answers(evidence.reference, "reference", metric, evidence)
    if isinstance(served_reference, str):
        details["reference_problem"] = served_reference
    else:
        details["scores"]["reference"] = metric.scored(served_reference, labels).score
    if options.rule == "estimate":
        details |= resolution.found(comparison, max_drop=options.max_drop, max_relative_drop=options.max_relative_drop)
    if _misses(options, original.score):
        details["original_misses"] = True
    figures = _Figures.of(comparison)
    checks = list(_checks(figures, metric.name, options))
    if Verdict.of_all([check.verdict for check in checks]) is not Verdict.FAIL:
        asked = _Asked(metric, answered, labels, figures)
        for sizes in ask.other_sizes(evidence.max_batch_size):
            again = _again(asked, sizes, options, evidence)
            checks += [check for check in again if check.verdict is not Verdict.PASS]
    shown = {name: evidence.original[name] for name in metric.outputs}
    tables = differences.tables(metric.scored_labels(labels), shown, answered, comparison)
    checks = limits.resting_on(checks, len(labels))
    return GateResult("accuracy", answers.of_whom(checks, evidence), details, tables=tables)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what loses less, or how to decide; where the original misses a limit itself, that nothing else helps."""
    scores = result.details.get("scores", {})
    original = scores.get("original")
    if original is not None and _misses(options, original):
        limit = f"min: {options.min:g}" if options.min is not None else f"max: {options.max:g}"
        told = (
            f"the PyTorch original itself scores {original:.4g} and misses `{limit}`: nothing done to it helps; "
            "train it further, or move the limit"
        )
        return advising.advised(result, failed=told, undecided=told)
    failed = advising.lose_less(result)
    drop, reference = result.details.get("drop", 0.0), scores.get("reference")
    if reference is not None and drop > SLACK:
        lost = original - reference if result.details["larger_is_better"] else reference - original
        if lost >= drop / 2.0:
            failed = (
                f"the FP32 reference, served, scores {reference:.4g} and PyTorch {original:.4g}: what was lost was "
                "lost at export or by the engine; `mmdeploy debug RECIPE COMPONENT` names the first tensor"
            )
    return advising.advised(result, failed=failed, undecided=advising.MORE_SAMPLES)


def _misses(options: Options, score: float) -> bool:
    return limits.within(score, at_least=options.min, at_most=options.max, slack=SLACK) is Verdict.FAIL


@dataclass(frozen=True)
class _Figures:
    """What the limits are about.

    Attributes:
        score: The candidate's.
        score_interval: Its interval; None where there is none.
        drop: What the candidate loses against the original.
        drop_interval: Its interval; None where there is none.
        original: The original's score.
        larger_is_better: Of the metric.
        note: What a reader of the score must know.
    """

    score: float
    score_interval: Interval | None
    drop: float
    drop_interval: Interval | None
    original: float
    larger_is_better: bool
    note: str = ""

    @classmethod
    def of(cls, comparison: Comparison) -> _Figures:
        """Return those of all samples."""
        return cls(
            comparison.candidate.score, comparison.score_interval, comparison.drop, comparison.drop_interval,
            comparison.original.score, comparison.larger_is_better, comparison.candidate.note,
        )  # fmt: skip

    def with_loss(self, loss: float) -> _Figures:
        """Return them for answers that lose so much more."""
        down = -loss if self.larger_is_better else loss
        return replace(
            self, score=self.score + down, score_interval=_moved(self.score_interval, down),
            drop=self.drop + loss, drop_interval=_moved(self.drop_interval, loss), note="",
        )  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """What is known from asking for all samples in the largest batches."""

    metric: TaskMetric
    answers: Mapping[str, Array]
    labels: Labels
    figures: _Figures


def _moved(interval: Interval | None, by: float) -> Interval | None:
    return None if interval is None else (interval[0] + by, interval[1] + by)


def _again(asked: _Asked, sizes: Sequence[int], options: Options, evidence: Evidence) -> list[Check]:
    """Ask for some samples again, in requests of other sizes; for all of them where those lose too much."""
    count, where = len(asked.labels), f" in {ask.sizes_in_words(sizes)}"
    name, some = asked.metric.name, max(_SAMPLES_AGAIN, sum(sizes))
    checks: list[Check] = []
    for wanted in sorted({min(some, count), count}):
        rows = ask.spread(count, wanted)
        answered = _answers(evidence.candidate, "candidate", asked.metric, evidence, rows=rows, sizes=sizes)
        if isinstance(answered, str):
            return [_unanswered(f"{name}{where}", answered, options)]
        try:
            loss = max(0.0, _loss(asked, answered, rows))
        except StepError:  # a metric that cannot be computed on some samples, such as those of one class
            if wanted == count:
                raise
            continue
        checks = list(_checks(asked.figures.with_loss(loss), name, options, where=where))
        if loss <= SLACK or all(check.verdict is Verdict.PASS for check in checks):
            break
    return checks if loss > SLACK else []


def _loss(asked: _Asked, answered: Mapping[str, Array], rows: npt.NDArray[np.intp]) -> float:
    """Return what answers lose against those of the same samples in the largest batches."""
    metric, labels = asked.metric, asked.labels[rows]
    before = metric.scored(ask.select(asked.answers, rows), labels)
    return metric.drop(before.score, metric.scored(answered, labels).score)


def answers_of(deployment: Deployment, side: str, metric: TaskMetric, evidence: Evidence) -> dict[str, Array] | str:
    """Return what a deployment answers of what a metric sees, or what is wrong with it."""
    return _answers(deployment, side, metric, evidence)


def judged_drop(name: str, comparison: Comparison, options: Options) -> Check:
    """Judge what was lost by ``max_drop`` and the rule of the options."""
    return _judged(name, comparison.drop, comparison.drop_interval, options, at_most=options.max_drop)


def _unanswered(name: str, why: str, options: Options) -> Check:
    return Check(name, None, _all_limits(options), Verdict.FAIL, note=why)


def _answers(
    deployment: Deployment, side: str, metric: TaskMetric, evidence: Evidence, *,
    rows: npt.NDArray[np.intp] | None = None, sizes: Sequence[int] = (),
) -> dict[str, Array] | str:  # fmt: skip
    """Return what a deployment answers, or what is wrong with it."""
    feeds = evidence.feeds if rows is None else Samples.of(evidence.feeds).select(rows)
    try:
        found = ask.of_ensemble(deployment, evidence, feeds, what=f"accuracy: {side}", sizes=sizes)
    except InferenceError as error:
        return f"the {side} did not answer: {error.message}"
    for output in metric.outputs:
        expected = evidence.original[output]
        wrong = answers.problem(expected if rows is None else picked(expected, rows), found.get(output), output, side)
        if wrong:
            return wrong
    return {output: found[output] for output in metric.outputs}


def _checks(found: _Figures, name: str, options: Options, *, where: str = "") -> Iterator[Check]:
    limit = {"at_least": options.min} if options.min is not None else {"at_most": options.max}
    if options.min is not None or options.max is not None:
        yield _judged(f"{name}{where}", found.score, found.score_interval, options, note=found.note, **limit)
    if options.max_drop is None and options.max_relative_drop is None:
        return
    if options.max_drop is not None:
        drop_name, interval = f"{name} drop{where}", found.drop_interval
        yield _judged(drop_name, found.drop, interval, options, note=found.note, at_most=options.max_drop)
    if options.max_relative_drop is not None:
        relative_name, scale = f"{name} relative drop{where}", abs(found.original)
        if scale == 0.0:
            words, note = limits.in_words(at_most=options.max_relative_drop), "the original scores 0"
            yield Check(relative_name, None, words, Verdict.INCONCLUSIVE, note=note)
        else:
            interval = found.drop_interval
            relative = None if interval is None else (interval[0] / scale, interval[1] / scale)
            yield _judged(relative_name, found.drop / scale, relative, options, at_most=options.max_relative_drop)


def _judged(
    name: str, value: float, interval: Interval | None, options: Options, *, note: str = "", **limit: float | None
) -> Check:
    """Judge a figure by the rule of the options; ``limit`` is ``at_least`` or ``at_most``."""
    import numpy as np

    by_interval = Verdict.INCONCLUSIVE if interval is None else limits.decided(interval, **limit)
    doubt = ""
    if options.rule == "interval":
        verdict = by_interval
        if verdict is Verdict.INCONCLUSIVE:
            doubt = "the interval includes the limit: only more samples can decide"
    else:
        verdict = limits.within(value, **limit, slack=SLACK)
        if by_interval is Verdict.INCONCLUSIVE:
            doubt = "the interval includes the limit: other samples could have decided otherwise"
    if interval is None:
        doubt = "no interval: the metric could not be computed on enough resamples of the samples"
    finite = interval is not None and all(np.isfinite(interval))
    words = limits.in_words(at_least=limit.get("at_least"), at_most=limit.get("at_most"))
    notes = "; ".join(part for part in (note, doubt) if part)
    return Check(name, value, words, verdict, interval if finite else None, note=notes)


def _all_limits(options: Options) -> str:
    limit_by_name = {
        ">=": options.min, "<=": options.max, "drop <=": options.max_drop,
        "relative drop <=": options.max_relative_drop,
    }  # fmt: skip
    return ", ".join(f"{name} {limit:g}" for name, limit in limit_by_name.items() if limit is not None)
