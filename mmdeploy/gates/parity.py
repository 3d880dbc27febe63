"""Parity: do the served models answer what the PyTorch original answers?

What it does: asks every served component (its inputs as the original computes them, so that each is judged alone)
and the served ensemble (so that errors add up as they will in use), and compares each output tensor with the
original's: by cosine similarity, signal to quantization noise ratio (SQNR, dB), largest absolute error and error of
the scale (how far the ratio of norms is from 1), the share of samples answered exactly alike, and the overlap at k
(the share of the k best that both have; of an output that is ids its first k, of scores the ids of the k largest).
Which figure is judged: ``statistic: worst`` (the default) takes the worst sample, so no sample may be off;
``statistic: mean`` takes the mean of the samples' figures, and the SQNR of all samples together. The largest error
is always over all values, and the exact match over all samples.
When to choose it: always. It needs no labels, and names the component that an accuracy loss comes from. Give outputs
of different kinds a gate each and name them in ``outputs`` (of the ensemble, or any tensor that a component writes):
logits ``min_cosine`` or ``min_sqnr_db``; embeddings ``min_cosine``, with ``max_scale_error`` where their length
matters, which cosine does not see; class ids and token ids ``min_exact_match``; lists of ids ``min_overlap_at_k``.
What it needs: evaluation samples, and at least one of the limits. As a guide: FP32 engines reach a cosine of 0.999999
and 90 dB; per-channel INT8 0.99 to 0.9999 and 20 to 40 dB.
Limits: the worst of many samples is lower than the worst of few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import Array, Check, Evidence, FeedDict, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.gates import advising, answers, limits
from mmdeploy.scoring import ask, closeness, metrics

REQUIRES: tuple[str, ...] = ()
NEEDS_LABELS = False

#: Reported for an SQNR without noise (and its negative without signal), as JSON has no infinity.
SQNR_EXACT_DB = 400.0


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
            named = [one.option for one in _LIMITS]
            raise ValueError(f"give at least one limit: {', '.join(named[:-1])} or {named[-1]}")
        if self.k is not None and self.min_overlap_at_k is None:
            raise ValueError("k belongs to min_overlap_at_k: give both, or neither")
        return self


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
    _Limit("max_scale_error", "scale_error", "{statistic} scale error", "at_most"),
    _Limit("min_exact_match", "exact_match", "exact match", "at_least"),
    _Limit("min_overlap_at_k", "overlap_at_k", "{statistic} overlap at k", "at_least"),
)


@dataclass(frozen=True)
class _Subject:
    """One served model: whom to ask, with what, what the original says, and whether it has several outputs."""

    label: str
    model: str | None
    feeds: FeedDict
    expected: Mapping[str, Array]
    several: bool


def check(options: Options, evidence: Evidence) -> GateResult:
    """Compare every output in scope with the original's; a refused request fails the model's checks.

    Raises:
        DataError: If there are no evaluation samples, or nothing in scope writes an output that is named.
    """
    import numpy as np

    count = ask.sample_count(evidence)
    wanted = min(count, options.samples or count)
    chosen = np.unique(np.linspace(0, count - 1, wanted).round().astype(np.intp))
    checks: list[Check] = []
    tensors: dict[str, Any] = {}
    subjects = list(_subjects(options, evidence))
    if not subjects:
        raise DataError(
            f"the parity gate judges {', '.join(options.outputs or ())}, which nothing in its scope writes",
            hint="`scope: both` judges what components write, and the ensemble's outputs",
        )
    for subject in subjects:
        try:
            answered = ask.answers(
                evidence.candidate, subject.model, ask.select(subject.feeds, chosen),
                max_batch_size=evidence.max_batch_size, progress=evidence.progress,
                what=f"parity: {subject.label}",
            )  # fmt: skip
        except InferenceError as error:
            checks.append(ask.refused(f"{subject.label}: parity", _all_limits(options), error))
            continue
        for name, expected in ask.select(subject.expected, chosen).items():
            label = f"{subject.label}.{name}" if subject.several else subject.label
            found, figures = _compare(label, name, (expected, answered.get(name)), options)
            checks.extend(found)
            tensors[label] = figures
    details = {"samples": len(chosen), "statistic": options.statistic, "tensors": tensors}
    return GateResult("parity", tuple(checks), details)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what loses less."""
    return advising.advised(result, failed=advising.LOSE_LESS)


def _subjects(options: Options, evidence: Evidence) -> Iterator[_Subject]:
    """Give every model that writes a tensor in scope."""
    original = evidence.original
    if options.scope != "end_to_end":
        for component in evidence.components:
            wanted = {name: tensor for name, tensor in component.outputs.items() if _is_judged(tensor, options)}
            if wanted:
                expected = {name: original[tensor] for name, tensor in wanted.items()}
                feeds = ask.component_feeds(component, evidence)
                yield _Subject(component.name, component.name, feeds, expected, several=len(component.outputs) > 1)
    if options.scope != "components":
        expected = {name: original[name] for name in evidence.ensemble_outputs if _is_judged(name, options)}
        if expected:
            yield _Subject("end to end", None, evidence.feeds, expected, several=len(evidence.ensemble_outputs) > 1)


def _is_judged(tensor: str, options: Options) -> bool:
    return options.outputs is None or tensor in options.outputs


def _compare(
    label: str, output: str, pair: tuple[Array, Array | None], options: Options
) -> tuple[list[Check], dict[str, Any]]:
    expected, answered = pair
    problem = answers.problem(expected, answered, output, "candidate")
    if answered is None or problem:
        return [Check(f"{label}: parity", None, _all_limits(options), Verdict.FAIL, note=problem)], {"problem": problem}
    figures = _figures(expected, answered) | _overlap(output, expected, answered, options)
    return list(_checks(label, figures, options)), figures


def _figures(expected: Array, answered: Array) -> dict[str, Any]:
    import numpy as np

    sqnr_db = metrics.per_sample_sqnr_db(expected, answered).clip(-SQNR_EXACT_DB, SQNR_EXACT_DB)
    overall_db = np.clip(metrics.sqnr_db(expected, answered), -SQNR_EXACT_DB, SQNR_EXACT_DB)
    cosine, scale = metrics.per_sample_cosine(expected, answered), closeness.per_sample_scale_error(expected, answered)
    return {
        "cosine": {"worst": float(cosine.min()), "mean": float(cosine.mean())},
        "sqnr_db": {"worst": float(sqnr_db.min()), "mean": float(overall_db)},
        "max_abs_error": metrics.max_abs_error(expected, answered),
        "scale_error": {"worst": float(scale.max()), "mean": float(scale.mean())},
        "exact_match": float(closeness.per_sample_equal(expected, answered).mean()),
        "largest_value": float(np.abs(expected.astype(np.float64)).max(initial=0.0)),
    }


def _overlap(output: str, expected: Array, answered: Array, options: Options) -> dict[str, Any]:
    """Return the overlap at k, where it is judged."""
    if options.min_overlap_at_k is None:
        return {}
    if options.k is None and expected.dtype.kind == "f":
        raise DataError(
            f"the parity gate's min_overlap_at_k: {output!r} holds scores, and all places would be among the best",
            hint="say how many count with `k`, or name outputs that are ids under `outputs`",
        )
    overlap = closeness.per_sample_overlap(expected, answered, options.k)
    return {"overlap_at_k": {"worst": float(overlap.min()), "mean": float(overlap.mean())}}


def _checks(label: str, figures: Mapping[str, Any], options: Options) -> Iterator[Check]:
    for one in _LIMITS:
        limit = getattr(options, one.option)
        if limit is None:
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
