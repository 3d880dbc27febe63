"""Throughput: how many samples a second does the served candidate answer, next to its FP32 reference?

What it does: keeps ``concurrency`` requests of ``batch`` samples in flight, candidate and reference interleaved in
short blocks, and compares samples a second over all blocks: as a ratio, candidate over reference, and if wanted
absolutely. Intervals, looks and ``inconclusive`` are those of the latency gate.
When to choose it: for servers that are kept busy (dynamic batching pays at concurrency above 1); for one user at a
time judge latency.
What it needs: one of ``min_ratio_to_reference``, ``min_per_second``. The latter holds only on the machine named by
``hardware``; elsewhere it is reported under ``not_binding``, and if it is the only limit, the gate is inconclusive.
Limits: the clients share the machine and are Python threads: at some hundred small requests a second they are the
bottleneck for both sides, and the ratio tends to 1. Samples repeat, so a response cache would answer some of them;
builds judge with a cache too small to help.
"""

from __future__ import annotations

import time
from typing import Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import Check, Evidence, GateResult, Verdict
from mmdeploy.gates import advising, limits, side_by_side
from mmdeploy.scoring import load, looks, served_figures

REQUIRES: tuple[str, ...] = ("scipy",)
NEEDS_LABELS = False


class Options(load.LoadOptions):
    """Limits of the throughput gate; at least one.

    Attributes:
        concurrency: Requests in flight at any time.
        min_ratio_to_reference: Smallest candidate-to-reference ratio of samples a second.
        min_per_second: Fewest samples a second, on ``hardware``.
    """

    method: Literal["throughput"] = "throughput"
    concurrency: int = Field(default=8, ge=1, le=256)
    min_ratio_to_reference: float | None = Field(default=None, gt=0.0)
    min_per_second: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Self:
        if self.min_ratio_to_reference is None and self.min_per_second is None:
            raise ValueError("give at least one limit: min_ratio_to_reference or min_per_second")
        if self.min_per_second is not None and self.hardware is None:
            raise ValueError(
                "min_per_second holds on one machine only: name its CPU or GPU in hardware, or use a ratio"
            )
        return self


def check(options: Options, evidence: Evidence, *, clock: load.Clock = time.perf_counter) -> GateResult:
    """Measure both deployments and compare; a refusal by the candidate fails.

    Raises:
        DataError: If there are no evaluation samples.
    """
    subject = side_by_side.Subject(
        gate="throughput",
        limits=_all_limits(options),
        absolute="" if options.min_per_second is None else f"min_per_second: {options.min_per_second:g}",
        unit="samples/s",
        decide=lambda measured, confidence, absolute: _checks(measured, confidence, options, absolute=absolute),
    )
    return side_by_side.judged(subject, options, evidence, clock)[0]


def advice(options: Options, result: GateResult) -> str | None:
    """Say what is faster, or how to decide."""
    return advising.advised(result, failed=advising.be_faster(result), undecided=advising.MEASURE_AGAIN)


def _checks(measured: load.Measurement, confidence: float, options: Options, *, absolute: bool) -> list[Check]:
    short = looks.too_few(measured, 0) if confidence else ""
    checks = []

    def judged(name: str, found: served_figures.Estimate, limit: float, unit: str) -> Check:
        verdict = Verdict.INCONCLUSIVE if short else limits.decided(found.interval, at_least=limit)
        words = limits.in_words(at_least=limit, unit=unit)
        return Check(side_by_side.named(name, options), found.value, words, verdict, found.interval, unit, short)

    if options.min_ratio_to_reference is not None:
        ratio = served_figures.rate_ratio(measured, confidence=confidence)
        checks.append(judged("samples/s ratio", ratio, options.min_ratio_to_reference, ""))
    if options.min_per_second is not None and absolute:
        found = served_figures.rate(measured, samples=options.batch, confidence=confidence)
        checks.append(judged("samples/s", found, options.min_per_second, "samples/s"))
    return checks


def _all_limits(options: Options) -> str:
    words = []
    if options.min_ratio_to_reference is not None:
        words.append(f"ratio {limits.in_words(at_least=options.min_ratio_to_reference)}")
    if options.min_per_second is not None:
        words.append(limits.in_words(at_least=options.min_per_second, unit="samples/s"))
    return ", ".join(words)
