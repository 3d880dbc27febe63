"""Latency: does the served candidate answer fast enough, next to its FP32 reference on the same machine?

What it does: closed-loop clients put evaluation samples to the candidate and to the FP32 reference, interleaved in
short blocks, and compare a percentile of the request times: as a ratio, candidate over reference, and if wanted in
milliseconds. Each has an interval that allows for slow wander of one server (time constants up to 20 s), and for what
a restart of the servers changes (a standard deviation of 1.6 %). The gate passes when the whole interval is within the
limit, fails when the whole interval is beyond it, and else measures on, up to ``max_seconds``, before it says
``inconclusive``. Either verdict must be that of the earlier and of the later half of the rounds too.
How often it errs, simulated with a wander of 5 % and 20 s: equals at a limit of 1.0 fail or pass, and a candidate that
is 10 % slower passes, in less than 1 of 100 judgements.
When to choose it: whenever speed is why the model is compressed. ``max_ratio_to_reference: 1.0`` says "not slower
than FP32", 0.8 "at least a fifth less time". A limit equal to what is really reached cannot be decided by any
measurement, so leave room: 10 % are decided in a minute on a quiet machine.
What it needs: one of ``max_ratio_to_reference``, ``max_ms``. A limit in milliseconds holds only on the machine
named by ``hardware`` (the CPU's or a GPU's name, or a glob such as ``*H100*``). Elsewhere it is reported under
``not_binding`` and not judged; if it is the only limit, the gate is inconclusive there.
Limits: on a machine that others use, too, the tail (p95, p99) is mostly their work: intervals of 20 % are common
there, of p50 2 %. Times include the gRPC client, which shares the machine. Samples repeat once all were sent, so a
response cache would be measured warm; builds judge with a cache too small to help. p99 needs 459 requests at the
default confidence.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import Check, Evidence, GateResult, Verdict
from mmdeploy.gates import advising, limits, side_by_side
from mmdeploy.scoring import ask, load, looks, metrics, served_figures

REQUIRES: tuple[str, ...] = ("scipy",)
NEEDS_LABELS = False

_COMPONENT_REQUESTS = 100
_COMPONENT_SECONDS = 5.0


class Options(load.LoadOptions):
    """Limits of the latency gate; at least one.

    Attributes:
        percentile: Which percentile of the request times is judged; beyond p50 on a quiet machine.
        max_ratio_to_reference: Largest candidate-to-reference ratio of that percentile.
        max_ms: Largest percentile in milliseconds, on ``hardware``.
        per_component: Also time each composing model alone (batch 1), for the report.
    """

    method: Literal["latency"] = "latency"
    percentile: Literal["p50", "p90", "p95", "p99"] = "p50"
    max_ratio_to_reference: float | None = Field(default=None, gt=0.0)
    max_ms: float | None = Field(default=None, gt=0.0)
    per_component: bool = True

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Self:
        if self.max_ratio_to_reference is None and self.max_ms is None:
            raise ValueError("give at least one limit: max_ratio_to_reference or max_ms")
        if self.max_ms is not None and self.hardware is None:
            raise ValueError("max_ms holds on one machine only: name its CPU or GPU in hardware, or use a ratio")
        if self.requests < self.needed_requests:
            raise ValueError(f"{self.percentile} needs requests: {self.needed_requests} or more")
        return self

    @property
    def needed_requests(self) -> int:
        """The requests without which nothing can be said about the percentile."""
        return metrics.required_requests(float(self.percentile[1:]), confidence=self.confidence)


def check(options: Options, evidence: Evidence, *, clock: load.Clock = time.perf_counter) -> GateResult:
    """Measure both deployments and compare; a refusal by the candidate fails.

    Raises:
        DataError: If there are no evaluation samples.
    """
    subject = side_by_side.Subject(
        gate="latency",
        limits=_all_limits(options),
        absolute="" if options.max_ms is None else f"max_ms: {options.max_ms:g}",
        unit=f"{options.percentile} ms",
        decide=lambda measured, confidence, absolute: _checks(measured, confidence, options, absolute=absolute),
    )
    result, measured = side_by_side.judged(subject, options, evidence, clock)
    if not result.details:  # nothing could be measured
        return result
    details = {**result.details, "percentile": options.percentile}
    if options.per_component and measured.refusal is None:
        details["components"] = _component_latencies(evidence, clock)
    return replace(result, details=details)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what is faster, or how to decide."""
    return advising.advised(result, failed=advising.be_faster(result), undecided=advising.MEASURE_AGAIN)


def _checks(measured: load.Measurement, confidence: float, options: Options, *, absolute: bool) -> list[Check]:
    at = float(options.percentile[1:])
    short = looks.too_few(measured, options.needed_requests) if confidence else ""
    checks = []

    def judged(name: str, found: served_figures.Estimate, limit: float, unit: str) -> Check:
        verdict = Verdict.INCONCLUSIVE if short else limits.decided(found.interval, at_most=limit)
        words = limits.in_words(at_most=limit, unit=unit)
        called = side_by_side.named(f"{options.percentile} {name}", options)
        return Check(called, found.value, words, verdict, found.interval, unit, short)

    if options.max_ratio_to_reference is not None:
        ratio = served_figures.percentile_ratio(measured, at, confidence=confidence)
        checks.append(judged("ratio", ratio, options.max_ratio_to_reference, ""))
    if options.max_ms is not None and absolute:
        found = served_figures.percentile_ms(measured, at, confidence=confidence)
        checks.append(judged("ms", found, options.max_ms, "ms"))
    return checks


def _component_latencies(evidence: Evidence, clock: load.Clock) -> dict[str, Any]:
    """Time each composing model alone at batch 1, both sides interleaved; figures for plots, not judged."""
    alone = load.LoadOptions(requests=_COMPONENT_REQUESTS, max_seconds=_COMPONENT_SECONDS, warmup=10)
    figures: dict[str, Any] = {}
    components = [one for one in evidence.components if one.alone]
    for index, component in enumerate(components):
        evidence.progress(index, len(components), f"latency of {component.name}")
        feeds = ask.component_feeds(component, evidence)
        with load.SideBySide(evidence, feeds, alone, model=component.name, clock=clock) as pair:
            checks = looks.until_decided(
                pair,
                alone,
                evidence,
                what=f"latency of {component.name}",
                decide=lambda measured, confidence: [],
            )
        refusal = checks[0].note if checks else None
        figures[component.name] = {"problem": refusal} if refusal else looks.figures(pair.measured, alone)
    return figures


def _all_limits(options: Options) -> str:
    words = []
    if options.max_ratio_to_reference is not None:
        words.append(f"ratio {limits.in_words(at_most=options.max_ratio_to_reference)}")
    if options.max_ms is not None:
        words.append(f"{options.percentile} {limits.in_words(at_most=options.max_ms, unit='ms')}")
    return ", ".join(words)
