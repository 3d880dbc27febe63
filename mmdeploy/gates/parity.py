"""Parity: do the served models answer what the PyTorch original answers?

What it does: asks every served component (its inputs as the original computes them, so that each is judged alone)
and the served ensemble (so that errors add up as they will in use), and compares each output tensor with the
original's: by cosine similarity, signal to quantization noise ratio (SQNR, dB), largest absolute error and error of
the scale (how far the ratio of norms is from 1), the share of samples answered exactly alike, and the overlap at k
(the share of the k best that both have; of an output that is ids its first k, of scores the ids of the k largest).
Which figure is judged: ``statistic: worst`` (the default) takes the worst sample, so no sample may be off;
``statistic: mean`` takes the mean of the samples' figures, and the SQNR of all samples together. The largest error
is always over all values, and the exact match over all samples.
Size: cosine does not see it (logits times 1000 have a cosine of 1). With ``min_cosine`` alone the norms are judged
too: each may differ by as much as the noise that this cosine allows, the square root of 1 - ``min_cosine`` squared (5 %
at least), as a share of its own norm or of the norms' root mean square, whichever is larger. ``max_scale_error``,
``min_sqnr_db`` or ``max_abs_error`` take its place.
A cascade: a sample that left early is compared with what the original answers early, any other with what it answers in
the end. Which way it should have gone is for ``early_exit`` to judge.
Batches: all samples are asked in batches of ``max_batch_size``, and some again one at a time and in odd batches; each
must keep the limits. So must, of a stream, some in the shortest chunks and in ones that leave a shorter last one.
When to choose it: always. It needs no labels, and names the component that an accuracy loss comes from. Give outputs
of different kinds a gate each and name them in ``outputs`` (of the ensemble, or any tensor that a component writes):
logits and embeddings ``min_cosine`` or ``min_sqnr_db``, with ``max_scale_error`` where another length than
``min_cosine`` allows is right or wrong; class ids and token ids ``min_exact_match``; lists of ids ``min_overlap_at_k``.
What it needs: evaluation samples, and at least one of the limits. As a guide: FP32 engines reach a cosine of 0.999999
and 90 dB; per-channel INT8 0.99 to 0.9999 and 20 to 40 dB.
Limits: the worst of many samples is lower than the worst of few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import Array, Check, Evidence, GateResult, MethodOptions, Samples, Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.core.samples import column_of, is_text
from mmdeploy.gates import advising, answers, limits
from mmdeploy.scoring import ask, closeness, lengths, metrics, ragged

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REQUIRES: tuple[str, ...] = ()
NEEDS_LABELS = False

#: Reported for an SQNR without noise (and its negative without signal), as JSON has no infinity.
SQNR_EXACT_DB = 400.0
#: What the norms may always differ by: INT8 changes them by some percent where the direction hardly changes.
_LEAST_NORM_ERROR = 0.05
#: Samples that are asked again one at a time, and in odd batches.
_SAMPLES_AGAIN = 32

_WHOLE = "end to end"
_BETWEEN = (
    "each component alone answers as PyTorch does, and the ensemble does not: what lies between them is at fault. With "
    "`bucket` under sizes the model minds padding: let it take a mask, or leave `bucket` out"
)


class Options(MethodOptions):
    """Limits of the parity gate; at least one.

    Attributes:
        outputs: Tensors to judge, by their names in the ensemble: its outputs, or any that a component writes. All
            when absent.
        min_cosine: Lowest cosine similarity, in [-1, 1].
        min_sqnr_db: Lowest signal to quantization noise ratio, in dB.
        max_abs_error: Largest absolute error, in the tensor's own unit.
        max_scale_error: Largest distance of the ratio of norms, candidate over original, from 1.
        min_exact_match: Lowest share of samples that are answered exactly as the original does.
        min_overlap_at_k: Lowest share of the k best that candidate and original have in common.
        k: Of ``min_overlap_at_k``; as many as an output holds when absent.
        statistic: Judge the worst sample, or all together.
        scope: Judge each component, the ensemble, or both.
        samples: How many evaluation samples to use, spread evenly; all when absent.
    """

    method: Literal["parity"] = "parity"
    outputs: tuple[str, ...] | None = Field(default=None, min_length=1)
    min_cosine: float | None = Field(default=None, ge=-1.0, le=1.0)
    min_sqnr_db: float | None = None
    max_abs_error: float | None = Field(default=None, ge=0.0)
    max_scale_error: float | None = Field(default=None, ge=0.0)
    min_exact_match: float | None = Field(default=None, ge=0.0, le=1.0)
    min_overlap_at_k: float | None = Field(default=None, ge=0.0, le=1.0)
    k: int | None = Field(default=None, ge=1)
    statistic: Literal["worst", "mean"] = "worst"
    scope: Literal["components", "end_to_end", "both"] = "both"
    samples: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if all(getattr(self, one.option) is None for one in _LIMITS):
            named = [one.option for one in _LIMITS if one.option in type(self).model_fields]
            raise ValueError(f"give at least one limit: {', '.join(named[:-1])} or {named[-1]}")
        if self.k is not None and self.min_overlap_at_k is None:
            raise ValueError("k belongs to min_overlap_at_k: give both, or neither")
        return self

    @property
    def max_norm_error(self) -> float | None:
        """Largest error of the norms where nothing else but cosine is judged, which is blind to them."""
        sees_size = (self.max_scale_error, self.min_sqnr_db, self.max_abs_error)
        if self.min_cosine is None or any(limit is not None for limit in sees_size):
            return None
        return max(_LEAST_NORM_ERROR, round(math.sqrt(1.0 - max(0.0, self.min_cosine) ** 2), 3))


@dataclass(frozen=True)
class _Limit:
    """One kind of parity.

    Attributes:
        option: The limit's name in the options.
        figure: Name of the figure in details.
        label: What a check is called; ``{statistic}`` is filled in.
        side: ``at_least`` or ``at_most``.
        unit: Of the figure.
    """

    option: str
    figure: str
    label: str
    side: Literal["at_least", "at_most"]
    unit: str = ""


_LIMITS = (
    _Limit("min_cosine", "cosine", "{statistic} cosine", "at_least"),
    _Limit("min_sqnr_db", "sqnr_db", "{statistic} SQNR", "at_least", "dB"),
    _Limit("max_abs_error", "max_abs_error", "largest error", "at_most"),
    _Limit("max_norm_error", "norm_error", "{statistic} norm error", "at_most"),
    _Limit("max_scale_error", "scale_error", "{statistic} scale error", "at_most"),
    _Limit("min_exact_match", "exact_match", "exact match", "at_least"),
    _Limit("min_overlap_at_k", "overlap_at_k", "{statistic} overlap at k", "at_least"),
)


@dataclass(frozen=True)
class _Subject:
    """One served model: whom to ask, with what, what the original says, and whether it has several outputs.

    Where the ensemble is a cascade: what the original answers early, and which output says that a sample left early.
    """

    label: str
    model: str | None
    feeds: Samples
    expected: Mapping[str, Array]
    several: bool
    early: Mapping[str, Array] = field(default_factory=dict)
    left_early: str = ""


def check(options: Options, evidence: Evidence) -> GateResult:
    """Compare every output in scope with the original's; a refused request fails the model's checks.

    Raises:
        DataError: If there are no evaluation samples, or nothing in scope writes an output that is named.
    """
    import numpy as np

    count = ask.sample_count(evidence)
    chosen = ask.spread(count, options.samples or count)
    checks: list[Check] = []
    tensors: dict[str, Any] = {}
    subjects = list(_subjects(options, evidence))
    if not subjects:
        raise DataError(
            f"the parity gate judges {', '.join(options.outputs or ())}, which nothing in its scope writes",
            hint="`scope: both` judges what components write, and the ensemble's outputs",
        )
    others = [(ask.sizes_in_words(sizes), sizes, evidence) for sizes in ask.other_sizes(evidence.max_batch_size)]
    others += [(words, (), replace(evidence, candidate=one)) for words, one in evidence.recut.items()]
    at_bounds = None
    if evidence.bounds is not None:
        everyone = tuple(replace(part, samples=None) for part in evidence.components)
        feeds, original = evidence.bounds
        at_bounds = replace(evidence, components=everyone, feeds=feeds, original=original)
        if at_bounds.cascade is not None:
            cascade = replace(at_bounds.cascade, early=at_bounds.cascade.at_bounds)
            at_bounds = replace(at_bounds, cascade=cascade)
    bounds = subjects if at_bounds is None else list(_subjects(options, at_bounds))
    for subject, bound in zip(subjects, bounds, strict=True):
        count = len(next(iter(subject.expected.values())))
        chosen = ask.spread(count, options.samples or count)
        found, figures = _judged(subject, chosen, (), options, evidence)
        for words, sizes, asked_so in others:
            if all(check.measured is not None for check in found):
                again = _again(subject, chosen, sizes, options, asked_so)
                found = _worst(found, again, (words, "in the largest" if sizes else "in the recipe's"))
        if at_bounds and all(check.measured is not None for check in found):
            again, _ = _judged(bound, np.arange(bound.feeds.count), (), options, at_bounds)
            found = _worst(found, again, ("lengths at the bounds of their sizes", "at the samples' own"))
        checks += found
        tensors |= figures
    details = {"samples": len(chosen), "statistic": options.statistic, "tensors": tensors}
    details |= advising.done(evidence)
    asked = [Samples.of(evidence.feeds).select(chosen), *([] if at_bounds is None else [at_bounds.feeds])]
    tables = lengths.table(asked, evidence.sizes, evidence.feeds)
    return GateResult("parity", answers.of_whom(checks, evidence), details, tables=tables)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what loses less, of the components that fail alone."""
    missed = [check.name.partition(":")[0] for check in result.checks if check.verdict is Verdict.FAIL]
    alone = dict.fromkeys(name.partition(".")[0] for name in missed)
    done = result.details.get(advising.PASSES, {})
    asked = {check.name.partition(":")[0].partition(".")[0] for check in result.checks}
    if alone.keys() == {_WHOLE} and {*done} and {*done} <= asked and not any(done.values()):
        return advising.advised(result, failed=_BETWEEN)
    return advising.advised(result, failed=advising.lose_less(result, [name for name in alone if name in done]))


def judges_ensemble(options: Options, evidence: Evidence) -> bool:
    """Say whether the gate judges an output of the ensemble."""
    judged = (_is_judged(name, options, evidence.original) for name in evidence.ensemble_outputs)
    return options.scope != "components" and any(judged)


def _subjects(options: Options, evidence: Evidence) -> Iterator[_Subject]:
    """Give every model that writes a tensor in scope."""
    original = evidence.original
    if options.scope != "end_to_end":
        for component in (one for one in evidence.components if one.alone):
            wanted = {
                name: tensor for name, tensor in component.outputs.items() if _is_judged(tensor, options, original)
            }
            if wanted:
                expected = {name: original[tensor] for name, tensor in wanted.items()}
                feeds = ask.component_feeds(component, evidence)
                if component.samples is not None:
                    expected = ask.select(expected, component.samples)
                yield _Subject(component.name, component.name, feeds, expected, several=len(component.outputs) > 1)
    if options.scope != "components":
        expected = {name: original[name] for name in evidence.ensemble_outputs if _is_judged(name, options, original)}
        if expected:
            several, cascade = len(evidence.ensemble_outputs) > 1, evidence.cascade
            whole = _Subject(_WHOLE, None, Samples.of(evidence.feeds), expected, several=several)
            yield whole if cascade is None else replace(whole, early=cascade.early, left_early=cascade.left_early)


def _judged(
    subject: _Subject, rows: npt.NDArray[np.intp], sizes: Sequence[int], options: Options, evidence: Evidence
) -> tuple[list[Check], dict[str, Any]]:
    """Ask for samples in requests of some sizes; return the checks of all outputs in scope, and their figures."""
    feeds, what = subject.feeds.select(rows), f"parity: {subject.label}"
    try:
        answered = (
            ask.of_ensemble(evidence.candidate, evidence, feeds, what=what, sizes=sizes)
            if subject.model is None
            else ask.answers(
                evidence.candidate, subject.model, feeds,
                max_batch_size=evidence.max_batch_size, progress=evidence.progress, what=what, sizes=sizes,
            )
        )  # fmt: skip
    except InferenceError as error:
        return [ask.refused(f"{subject.label}: parity", _all_limits(options), error)], {}
    checks: list[Check] = []
    tensors: dict[str, Any] = {}
    for name, expected in _expected(subject, rows, answered).items():
        label = f"{subject.label}.{name}" if subject.several else subject.label
        found, tensors[label] = _compare(label, name, (expected, answered.get(name)), options)
        checks += found
    return checks, tensors


def _expected(subject: _Subject, rows: npt.NDArray[np.intp], answered: Mapping[str, Array]) -> dict[str, Array]:
    """Return what the original says of samples, of those that left a cascade early what it answers early."""
    expected = ask.select(subject.expected, rows)
    left = answered.get(subject.left_early)
    if left is None:
        return expected
    early = ask.select({name: subject.early[name] for name in expected}, rows)
    ways = [early if went.any() else expected for went in left]
    return {name: column_of([way[name][row] for row, way in enumerate(ways)]) for name in expected}


def _again(
    subject: _Subject, chosen: npt.NDArray[np.intp], sizes: Sequence[int], options: Options, evidence: Evidence
) -> list[Check]:
    """Ask for some of the samples in requests of other sizes; for all of them where a mean over some is beyond."""
    some = chosen[ask.spread(len(chosen), max(_SAMPLES_AGAIN, sum(sizes)))]
    checks, _ = _judged(subject, some, sizes, options, evidence)
    beyond = any(check.verdict is not Verdict.PASS and check.measured is not None for check in checks)
    if beyond and options.statistic == "mean" and len(some) < len(chosen):
        checks, _ = _judged(subject, chosen, sizes, options, evidence)
    return checks


def _worst(found: Sequence[Check], again: Sequence[Check], words: tuple[str, str]) -> list[Check]:
    """Return each check as it is with other requests where only that fails; words say which others, and which first."""
    other, first = words
    if any(check.measured is None for check in again):  # refused, or answers that are none
        return [replace(check, note=f"{other}: {check.note}") for check in again if check.measured is None]
    return [
        replace(now, note=f"{other}; {check.measured:.6g} {first}")
        if check.verdict is Verdict.PASS and now.verdict is not Verdict.PASS
        else check
        for check, now in zip(found, again, strict=True)
    ]


def _is_judged(tensor: str, options: Options, original: Mapping[str, Array]) -> bool:
    """Say whether a gate judges a tensor; of text there is nothing to say but whether it is the same."""
    text = is_text(original[tensor]) and options.min_exact_match is None
    if options.outputs is None:
        return not text
    if text and tensor in options.outputs:
        raise DataError(
            f"the parity gate judges {tensor!r}, which is text, by {_all_limits(options)}",
            hint="give text a gate of its own with min_exact_match",
        )
    return tensor in options.outputs


def _compare(
    label: str, output: str, pair: tuple[Array, Array | None], options: Options
) -> tuple[list[Check], dict[str, Any]]:
    expected, answered = pair
    problem = answers.problem(expected, answered, output, "candidate")
    if answered is None or problem:
        return [Check(f"{label}: parity", None, _all_limits(options), Verdict.FAIL, note=problem)], {"problem": problem}
    if is_text(expected):
        figures: dict[str, Any] = {"exact_match": float(closeness.per_sample_equal_text(expected, answered).mean())}
    else:
        figures = _figures(expected, answered) | _overlap(output, expected, answered, options)
    return limits.resting_on(_checks(label, figures, options), len(expected)), figures


def _figures(expected: Array, answered: Array) -> dict[str, Any]:
    import numpy as np

    all_values = ragged.flat(expected), ragged.flat(answered)
    sqnr_db = ragged.per_sample(metrics.per_sample_sqnr_db, expected, answered).clip(-SQNR_EXACT_DB, SQNR_EXACT_DB)
    overall_db = np.clip(metrics.sqnr_db(*all_values), -SQNR_EXACT_DB, SQNR_EXACT_DB)
    cosine = ragged.per_sample(metrics.per_sample_cosine, expected, answered)
    scale = ragged.per_sample(closeness.per_sample_scale_error, expected, answered)
    norm = closeness.per_sample_norm_error(expected, answered)
    return {
        "cosine": {"worst": float(cosine.min()), "mean": float(cosine.mean())},
        "sqnr_db": {"worst": float(sqnr_db.min()), "mean": float(overall_db)},
        "max_abs_error": metrics.max_abs_error(*all_values),
        "norm_error": {"worst": float(norm.max()), "mean": float(norm.mean())},
        "scale_error": {"worst": float(scale.max()), "mean": float(scale.mean())},
        "exact_match": float(ragged.per_sample(closeness.per_sample_equal, expected, answered).mean()),
        "largest_value": float(np.abs(all_values[0].astype(np.float64)).max(initial=0.0)),
    }


def _overlap(output: str, expected: Array, answered: Array, options: Options) -> dict[str, Any]:
    """Return the overlap at k, where it is judged."""
    if options.min_overlap_at_k is None:
        return {}
    if options.k is None and ragged.flat(expected).dtype.kind == "f":
        raise DataError(
            f"the parity gate's min_overlap_at_k: {output!r} holds scores, and all places would be among the best",
            hint="say how many count with `k`, or name outputs that are ids under `outputs`",
        )
    overlap = ragged.per_sample(
        lambda ours, theirs: closeness.per_sample_overlap(ours, theirs, options.k), expected, answered
    )
    return {"overlap_at_k": {"worst": float(overlap.min()), "mean": float(overlap.mean())}}


def _checks(label: str, figures: Mapping[str, Any], options: Options) -> Iterator[Check]:
    for one in _LIMITS:
        limit = getattr(options, one.option)
        if limit is None or one.figure not in figures:
            continue
        figure = figures[one.figure]
        value = figure[options.statistic] if isinstance(figure, Mapping) else figure
        given = {one.side: limit}
        at_least, at_most = given.get("at_least"), given.get("at_most")
        yield Check(
            f"{label}: {one.label.format(statistic=options.statistic)}",
            value,
            limits.in_words(at_least=at_least, at_most=at_most, unit=one.unit),
            limits.within(value, at_least=at_least, at_most=at_most),
            unit=one.unit,
        )


def _all_limits(options: Options) -> str:
    said = []
    for one in _LIMITS:
        limit = getattr(options, one.option)
        if limit is not None:
            sign, name = ">=" if one.side == "at_least" else "<=", one.label.removeprefix("{statistic} ")
            said.append(f"{name}{f' ({one.unit})' if one.unit else ''} {sign} {limit:g}")
    return ", ".join(said)
