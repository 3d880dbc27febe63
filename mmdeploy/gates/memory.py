"""Memory: how much does the server hold while it answers?

What it does: keeps ``concurrency`` requests of ``batch`` samples in flight for ``seconds``, samples the resident
set of the server and its children, and compares the peak with a limit, absolute or relative to the FP32 reference
under the same load.
When to choose it: when the model must fit into a container or beside others. Use ``max_bytes``; the ratio includes
what the server itself needs (a few hundred MB with the embedded server), so small models stay near 1.
What it needs: one of ``max_bytes``, ``max_ratio_to_reference``.
Limits: one run, no interval: leave a few percent of room. Peaks shorter than a twentieth of a second are missed.
Memory of a GPU is not counted.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import Check, Deployment, Evidence, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import InferenceError
from mmdeploy.gates import advising, limits
from mmdeploy.scoring import ask, lengths, load, looks

REQUIRES: tuple[str, ...] = ()
NEEDS_LABELS = False

_SAMPLE_SECONDS = 0.05


class Options(MethodOptions):
    """Limits of the memory gate; at least one.

    Attributes:
        max_bytes: Largest peak of the resident set, in bytes.
        max_ratio_to_reference: Largest candidate-to-reference ratio of the peaks.
        batch: Samples a request.
        concurrency: Requests in flight at any time.
        seconds: How long each side is loaded.
        lengths: Lengths of the samples asked, by the size's name; their own where it is left out.
    """

    method: Literal["memory"] = "memory"
    max_bytes: int | None = Field(default=None, ge=1)
    max_ratio_to_reference: float | None = Field(default=None, gt=0.0)
    batch: int = Field(default=1, ge=1)
    concurrency: int = Field(default=4, ge=1, le=256)
    seconds: float = Field(default=3.0, gt=0.0)
    lengths: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.max_bytes is None and self.max_ratio_to_reference is None:
            raise ValueError("give at least one limit: max_bytes or max_ratio_to_reference")
        return self


def check(options: Options, evidence: Evidence, *, clock: load.Clock = time.perf_counter) -> GateResult:
    """Load both sides one after the other and compare their peaks; a refusal by the candidate fails.

    Raises:
        DataError: If there are no evaluation samples.
    """
    ask.sample_count(evidence)
    unjudgeable = looks.unjudgeable("memory", _all_limits(options), options.batch, evidence)
    if unjudgeable is not None:
        return unjudgeable
    try:
        peak = _peak_bytes(evidence.candidate, options, evidence, clock=clock)
    except InferenceError as error:
        return GateResult("memory", (ask.refused("peak memory", _all_limits(options), error),))
    reference_peak, note = None, ""
    try:
        reference_peak = _peak_bytes(evidence.reference, options, evidence, clock=clock)
    except InferenceError as error:
        note = f"the reference did not answer: {error.message}"
    checks = []
    if options.max_bytes is not None:
        words = limits.in_words(at_most=options.max_bytes, unit="bytes")
        verdict = limits.within(peak, at_most=options.max_bytes)
        checks.append(Check("peak memory", float(peak), words, verdict, unit="bytes"))
    if options.max_ratio_to_reference is not None:
        words = limits.in_words(at_most=options.max_ratio_to_reference)
        if reference_peak:
            ratio = peak / reference_peak
            verdict = limits.within(ratio, at_most=options.max_ratio_to_reference)
            checks.append(Check("peak memory ratio", ratio, words, verdict))
        else:
            note = note or "the reference's resident set could not be read"
            checks.append(Check("peak memory ratio", None, words, Verdict.INCONCLUSIVE, note=note))
    details = {
        "candidate_bytes": peak, "reference_bytes": reference_peak, "batch": options.batch,
        "concurrency": options.concurrency, "seconds": options.seconds,
    }  # fmt: skip
    asked = lengths.at(evidence.feeds, evidence.sizes, options.lengths)
    tables = lengths.table([asked], evidence.sizes, evidence.feeds)
    return GateResult("memory", tuple(checks), details, tables=tables)


def advice(options: Options, result: GateResult) -> str | None:
    """Say what takes less, or how to decide."""
    return advising.advised(
        result,
        failed="serve fewer instances or smaller batches: serving.instance_group, serving.max_batch_size",
        undecided=advising.MEASURE_AGAIN,
    )


def _peak_bytes(deployment: Deployment, options: Options, evidence: Evidence, *, clock: load.Clock) -> int:
    requests = ask.requests(lengths.at(evidence.feeds, evidence.sizes, options.lengths), options.batch)
    clients = load.Clients(deployment, None, requests, concurrency=options.concurrency, clock=clock)
    deadline = clock() + options.seconds

    def keep_busy() -> None:
        first, count = 0, 4 * options.concurrency
        while clock() < deadline:
            clients.block(first, count)
            first += count

    peak, began = deployment.memory_bytes(), clock()
    try:
        with ThreadPoolExecutor(1) as pool:
            load_run = pool.submit(keep_busy)
            while wait([load_run], timeout=_SAMPLE_SECONDS).not_done:
                peak = max(peak, deployment.memory_bytes())
                evidence.progress(int(clock() - began), int(options.seconds), "memory: seconds")
            load_run.result()
    finally:
        clients.close()
    return max(peak, deployment.memory_bytes())


def _all_limits(options: Options) -> str:
    words = []
    if options.max_bytes is not None:
        words.append(limits.in_words(at_most=options.max_bytes, unit="bytes"))
    if options.max_ratio_to_reference is not None:
        words.append(f"ratio {limits.in_words(at_most=options.max_ratio_to_reference)}")
    return ", ".join(words)
