"""Parity: do the served models answer what the PyTorch original answers?

What it does: asks every served component (its inputs as the original computes them, so that each is judged alone)
and the served ensemble (so that errors add up as they will in use), and compares each output tensor with the
original's by cosine similarity, signal to quantization noise ratio (SQNR, dB) and largest absolute error.
Which figure is judged: ``statistic: worst`` (the default) takes the worst sample, so no sample may be off;
``statistic: mean`` takes the mean of the samples' cosines and the SQNR of all samples together. The largest error
is always over all values.
When to choose it: always. It needs no labels, and names the component that an accuracy loss comes from.
What it needs: evaluation samples, and at least one of the limits ``min_cosine``, ``min_sqnr_db``,
``max_abs_error``. As a guide: FP32 engines reach a cosine of 0.999999 and 90 dB; per-channel INT8 0.99 to 0.9999
and 20 to 40 dB.
Limits: cosine does not see a wrong scale (SQNR does); for outputs that are class ids or scalars use the largest
error; the worst of many samples is lower than the worst of few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import Array, Check, Evidence, FeedDict, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import InferenceError
from mmdeploy.gates import advising, limits
from mmdeploy.scoring import ask, metrics

REQUIRES: tuple[str, ...] = ()
NEEDS_LABELS = False

#: Reported for an SQNR without noise (and its negative without signal), as JSON has no infinity.
SQNR_EXACT_DB = 400.0


class Options(MethodOptions):
    """Limits of the parity gate; at least one.

    Attributes:
        min_cosine: Lowest cosine similarity, in [-1, 1].
        min_sqnr_db: Lowest signal to quantization noise ratio, in dB.
        max_abs_error: Largest absolute error, in the tensor's own unit.
        statistic: Judge the worst sample, or all together.
        scope: Judge each component, the ensemble, or both.
        samples: How many evaluation samples to use, spread evenly; all when absent.
    """

    method: Literal["parity"] = "parity"
    min_cosine: float | None = Field(default=None, ge=-1.0, le=1.0)
    min_sqnr_db: float | None = None
    max_abs_error: float | None = Field(default=None, ge=0.0)
    statistic: Literal["worst", "mean"] = "worst"
    scope: Literal["components", "end_to_end", "both"] = "both"
    samples: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.min_cosine is None and self.min_sqnr_db is None and self.max_abs_error is None:
            raise ValueError("give at least one limit: min_cosine, min_sqnr_db or max_abs_error")
        return self


@dataclass(frozen=True)
class _Subject:
    """One served model: whom to ask, with what, and what the original says."""

    label: str
    model: str | None
    feeds: FeedDict
    expected: Mapping[str, Array]


def check(options: Options, evidence: Evidence) -> GateResult:
    """Compare every output in scope with the original's; a refused request fails the model's checks.

    Raises:
        DataError: If there are no evaluation samples.
    """
    import numpy as np

    count = ask.sample_count(evidence)
    wanted = min(count, options.samples or count)
    chosen = np.unique(np.linspace(0, count - 1, wanted).round().astype(np.intp))
    checks: list[Check] = []
    tensors: dict[str, Any] = {}
    for subject in _subjects(options, evidence):
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
            label = subject.label if len(subject.expected) == 1 else f"{subject.label}.{name}"
            found, figures = _compare(label, expected, answered.get(name), options)
            checks.extend(found)
            tensors[label] = figures
    details = {"samples": len(chosen), "statistic": options.statistic, "tensors": tensors}
    return GateResult("parity", tuple(checks), details)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what loses less."""
    return advising.advised(result, failed=advising.LOSE_LESS)


def _subjects(options: Options, evidence: Evidence) -> Iterator[_Subject]:
    original = evidence.original
    if options.scope != "end_to_end":
        for component in evidence.components:
            feeds = ask.component_feeds(component, evidence)
            expected = {name: original[tensor] for name, tensor in component.outputs.items()}
            yield _Subject(component.name, component.name, feeds, expected)
    if options.scope != "components":
        expected = {name: original[name] for name in evidence.ensemble_outputs}
        yield _Subject("end to end", None, evidence.feeds, expected)


def _compare(
    label: str, expected: Array, answered: Array | None, options: Options
) -> tuple[list[Check], dict[str, Any]]:
    import numpy as np

    note, figures = "", dict[str, Any]()
    if answered is None:
        note = "the candidate's answer lacks this output"
    elif answered.shape != expected.shape:
        note = f"the answer has shape {list(answered.shape[1:])}, the original {list(expected.shape[1:])}"
    else:
        broken = int((~np.isfinite(answered.astype(np.float64))).reshape(len(answered), -1).any(axis=1).sum())
        note = f"{broken} of {len(answered)} answers hold NaN or Inf" if broken else ""
    if note or answered is None:
        return [Check(f"{label}: parity", None, _all_limits(options), Verdict.FAIL, note=note)], {"problem": note}
    figures = _figures(expected, answered)
    return list(_checks(label, figures, options)), figures


def _figures(expected: Array, answered: Array) -> dict[str, Any]:
    import numpy as np

    cosine = metrics.per_sample_cosine(expected, answered)
    sqnr_db = metrics.per_sample_sqnr_db(expected, answered).clip(-SQNR_EXACT_DB, SQNR_EXACT_DB)
    overall_db = np.clip(metrics.sqnr_db(expected, answered), -SQNR_EXACT_DB, SQNR_EXACT_DB)
    return {
        "cosine": {"worst": float(cosine.min()), "mean": float(cosine.mean())},
        "sqnr_db": {"worst": float(sqnr_db.min()), "mean": float(overall_db)},
        "max_abs_error": metrics.max_abs_error(expected, answered),
        "largest_value": float(np.abs(expected.astype(np.float64)).max(initial=0.0)),
    }


def _checks(label: str, figures: Mapping[str, Any], options: Options) -> Iterator[Check]:
    def judged(name: str, value: float, unit: str, **limit: float) -> Check:
        words = limits.in_words(**limit, unit=unit)
        return Check(f"{label}: {name}", value, words, limits.within(value, **limit), unit=unit)

    kind = options.statistic
    if options.min_cosine is not None:
        yield judged(f"{kind} cosine", figures["cosine"][kind], "", at_least=options.min_cosine)
    if options.min_sqnr_db is not None:
        yield judged(f"{kind} SQNR", figures["sqnr_db"][kind], "dB", at_least=options.min_sqnr_db)
    if options.max_abs_error is not None:
        yield judged("largest error", figures["max_abs_error"], "", at_most=options.max_abs_error)


def _all_limits(options: Options) -> str:
    limit_by_name = {
        "cosine >=": options.min_cosine, "SQNR (dB) >=": options.min_sqnr_db,
        "error <=": options.max_abs_error,
    }  # fmt: skip
    return ", ".join(f"{name} {limit:g}" for name, limit in limit_by_name.items() if limit is not None)
