"""The metric that a gate, a search or training scores with: built in, from a file of the recipe, or of torchmetrics.

A metric of one's own is a callable ``wer(outputs, labels, **arguments)``. ``outputs`` holds the ensemble's outputs by
name, the samples along axis 0, or in a list where their shapes differ; ``labels`` is what the data callable gave: an
array where labels are numbers or arrays of one shape, a list of strings, of lists of strings or of arrays otherwise, a
dict of these where labels are dicts. It returns one score a sample (an array as long as there are samples; the score is
their mean, and paired intervals come for free) or one for all (a number; intervals by resampling the samples and
calling it again). Its attributes say the rest: ``larger_is_better`` (a Boolean, which must be there, unless the recipe
says it), ``range`` (lowest and highest score, None where there is none) and ``name``. A class is made an instance of
with the recipe's arguments.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError, MetricError, MmdeployError
from mmdeploy.core.labels import Labels, Table, kind, plain
from mmdeploy.core.samples import is_ragged
from mmdeploy.model.sources import describe, importing_from, resolve_callable
from mmdeploy.model.watching import reading
from mmdeploy.scoring.builtin import METRICS
from mmdeploy.scoring.metric_spec import MetricSpec, arguments_of
from mmdeploy.scoring.ragged import sample_shape
from mmdeploy.scoring.scored import Scored, check_count, mean_of, one_by_one

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Range = tuple[float | None, float | None]
#: How far rounding may take a score out of its range.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class TaskMetric:
    """A metric that is ready to score.

    Attributes:
        name: For people.
        larger_is_better: Whether a larger score is better.
        outputs: The ensemble's outputs that it sees.
        range: Lowest and highest score that there is; None where there is none.
        compares: What its first output is to distillation; see `MetricSpec`.
        score: Scores the outputs that it sees.
        scored_labels: Takes the labels of the data and returns those that it scores: one of several by name, or all.
    """

    name: str
    larger_is_better: bool
    outputs: tuple[str, ...]
    range: Range
    compares: str
    score: Callable[[Mapping[str, Array], Labels], Scored]
    scored_labels: Callable[[Labels], Labels] = lambda labels: labels

    def scored(self, answers: Mapping[str, Array], labels: Labels) -> Scored:
        """Score finite answers.

        Args:
            answers: Arrays by ensemble output, samples along axis 0; more than it sees does not matter.
            labels: One a sample.

        Raises:
            DataError: If labels or outputs are not what the metric takes.
            MetricError: If the metric fails, or gives something that is no score.
        """
        seen = {name: answers[name] for name in self.outputs}
        check_count(len(next(iter(seen.values()))), len(labels))
        found = self.score(seen, self.scored_labels(labels))
        self._check(found.score, "")
        return found

    @property
    def worst(self) -> float:
        """The score of an answer that is as bad as can be."""
        low, high = self.range
        if self.larger_is_better:
            return -math.inf if low is None else low
        return math.inf if high is None else high

    def drop(self, original: float, candidate: float) -> float:
        """Return what a candidate loses against the original; positive is worse."""
        return original - candidate if self.larger_is_better else candidate - original

    def _check(self, score: float, where: str) -> None:
        low, high = self.range
        if math.isnan(score):
            raise MetricError(f"{self.name} gave NaN{where}", hint="a score is a number; see what it divides by")
        if (low is not None and score < low - _ROUNDING) or (high is not None and score > high + _ROUNDING):
            raise MetricError(
                f"{self.name} gave {score:g}{where}, outside its range [{_end(low)}, {_end(high)}]",
                hint="correct the metric, or the `range` that it declares",
            )


def open_metric(spec: MetricSpec, root: Path) -> TaskMetric:
    """Make a metric ready to score; one that is not built in is imported.

    Args:
        spec: What the recipe asks for.
        root: Folder of the recipe.

    Raises:
        MetricError: If there is no such metric, it refuses its arguments, or nobody says which direction is better.
    """
    called = _called(spec)
    if spec.is_built_in:
        return _built_in(spec, called, root)
    with _translated(spec.metric, "cannot be imported", root), reading(spec.metric):
        found: Any = resolve_callable(spec.metric, root, error=MetricError)
    with _translated(spec.metric, "refused its arguments", root), importing_from(root), reading(spec.metric):
        metric = found(**spec.arguments) if isinstance(found, type) else found
    if isinstance(found, type):
        from mmdeploy.scoring import torchmetrics_class

        if torchmetrics_class.is_metric_class(found):
            return _torchmetrics(spec, called, metric, root)
        if not callable(metric):
            raise MetricError(f"{spec.metric}: an instance of it cannot be called", hint="give it __call__")
    return _own(spec, called, metric, root)


def _called(spec: MetricSpec, name: str | None = None) -> str:
    """Return what a metric is called in reports."""
    said = name or spec.metric.rpartition(":")[2]
    arguments = ", ".join(f"{key}={value}" for key, value in spec.arguments.items())
    return said + (f"({arguments})" if arguments else "") + (f" of {', '.join(spec.outputs)}" if spec.named else "")


def _built_in(spec: MetricSpec, called: str, root: Path) -> TaskMetric:
    metric, arguments = METRICS[spec.metric], arguments_of(spec.metric, spec.arguments)
    return TaskMetric(
        called,
        metric.larger_is_better,
        spec.outputs,
        (0.0, 1.0 if metric.larger_is_better else None),
        metric.compares,
        lambda answers, labels: metric.score(_alike(spec.metric, answers), labels, arguments, root),
        lambda labels: labels if metric.several_labels else _of_name(spec, labels, arguments.label),
    )


def _of_name(spec: MetricSpec, labels: Labels, name: str | None) -> Labels:
    """Return the labels that a built-in metric scores: where they are mappings, those of one name."""
    if not isinstance(labels, Table):
        if name is not None:
            raise DataError(f"{spec.metric} is to score the label {name!r}, but labels have no names: {kind(labels)}")
        return labels
    wanted = name or spec.outputs[0]
    if wanted in labels.columns:
        return labels.columns[wanted]
    raise DataError(
        f"{spec.metric} scores one label, and none is called {wanted!r}: found {kind(labels)}",
        hint=f"name it: `arguments: {{label: {next(iter(labels.columns))}}}`",
    )


def _alike(name: str, answers: Mapping[str, Array]) -> list[Array]:
    """Return the outputs that a built-in metric scores; one that takes no others is given outputs of one shape only."""
    uneven = next((output for output, column in answers.items() if is_ragged(column)), None)
    if uneven is not None and not METRICS[name].ragged:
        raise DataError(
            f"{name} takes outputs of one shape, but {uneven!r} differs from sample to sample: "
            f"{sample_shape(answers[uneven])}",
            hint=f"{', '.join(key for key, one in METRICS.items() if one.ragged)} take outputs that vary; so does a "
            "metric of your own, which gets them as a list of arrays",
        )
    return list(answers.values())


def _torchmetrics(spec: MetricSpec, called: str, metric: Any, root: Path) -> TaskMetric:
    from mmdeploy.scoring import torchmetrics_class

    def score(answers: Mapping[str, Array], labels: Labels) -> Scored:
        with _translated(spec.metric, "failed", root):
            return torchmetrics_class.score(metric, called, answers, labels)

    direction = _direction(spec, metric.higher_is_better, "its higher_is_better is None")
    return TaskMetric(called, direction, spec.outputs, (None, None), "", score)


def _own(spec: MetricSpec, called: str, metric: Any, root: Path) -> TaskMetric:
    name = spec.metric.rpartition(":")[2]
    declared, span = getattr(metric, "larger_is_better", None), getattr(metric, "range", (None, None))
    if declared is not None and not isinstance(declared, bool):
        raise MetricError(f"{spec.metric}: its larger_is_better is {declared!r}, expected True or False")
    direction = _direction(spec, declared, f"it has no larger_is_better: write `{name}.larger_is_better = …` below it")
    called = _called(spec, getattr(metric, "name", None) or name)
    arguments = {} if isinstance(metric, type) or not hasattr(metric, "__name__") else dict(spec.arguments)

    def call(answers: Mapping[str, Array], labels: Labels) -> Any:
        with _translated(spec.metric, "failed", root), importing_from(root), reading(spec.metric):
            given = {key: list(column) if is_ragged(column) else column for key, column in answers.items()}
            return metric(given, plain(labels), **arguments)

    def score(answers: Mapping[str, Array], labels: Labels) -> Scored:
        return _scored(call, {key: _read_only(array) for key, array in answers.items()}, labels, spec.metric)

    return TaskMetric(called, direction, spec.outputs, _range(spec.metric, span), "", score)


def _scored(
    call: Callable[[Mapping[str, Array], Labels], Any], answers: Mapping[str, Array], labels: Labels, name: str
) -> Scored:
    """Score with a metric of one's own: one figure a sample, or one for all."""
    import numpy as np

    samples = len(labels)
    whole = _numbers(call(answers, labels), samples, name)
    if whole.ndim:
        wrong = np.flatnonzero(np.isnan(whole))
        if len(wrong):
            raise MetricError(f"{name} gave NaN for sample {wrong[0]}", hint="a score is a number")
        return mean_of(whole)

    def value(rows: npt.NDArray[np.intp]) -> float:
        if len(rows) == samples and bool((rows[1:] > rows[:-1]).all()):
            return float(whole)
        found = call({key: array[rows] for key, array in answers.items()}, labels[rows])
        return float(_numbers(found, samples, name).mean())

    return one_by_one(value, samples)


def _numbers(found: Any, samples: int, name: str) -> npt.NDArray[np.float64]:
    """Return what a metric gave as an array: without axes, or one number a sample."""
    import numpy as np

    try:
        array = np.asarray(found)
    except (ValueError, TypeError):
        array = np.array(None)
    if array.dtype.kind in "biuf" and array.shape in ((), (samples,)):
        return array.astype(np.float64)
    shaped = array.dtype.kind in "biuf"
    raise MetricError(
        f"{name} returned {f'an array of shape {list(array.shape)}' if shaped else f'a {type(found).__name__}'}, "
        f"expected one number, or one a sample: an array of shape [{samples}]",
    )


def _direction(spec: MetricSpec, declared: bool | None, why: str) -> bool:
    said = spec.larger_is_better
    if said is not None and declared is not None and said != declared:
        raise MetricError(
            f"{spec.metric} says larger_is_better: {declared}, the recipe {said}", hint="take it out of the recipe"
        )
    if said is None and declared is None:
        raise MetricError(
            f"{spec.metric} does not say whether a larger score is better: {why}",
            hint="or say it in the gate: `larger_is_better: true` or `false`",
        )
    return bool(said if declared is None else declared)


def _range(name: str, span: Any) -> Range:
    try:
        low, high = span
        found = (None if low is None else float(low), None if high is None else float(high))
    except (TypeError, ValueError):
        raise MetricError(f"{name}: its range is {span!r}, expected two numbers, None where there is no end") from None
    return found


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _end(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


@contextlib.contextmanager
def _translated(name: str, what: str, root: Path) -> Iterator[None]:
    """Turn what a metric's code raises into a `MetricError` that says where."""
    try:
        yield
    except MmdeployError:
        raise
    except (Exception, SystemExit) as cause:
        raise MetricError(f"{name} {what}: {describe(cause, root)}") from cause
