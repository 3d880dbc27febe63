"""What the gates of speed share: both deployments under the same load, and limits that hold on one machine only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmdeploy.core.contracts import Check, Evidence, GateResult, Verdict
from mmdeploy.gates import advising, limits
from mmdeploy.scoring import ask, lengths, load, looks


@dataclass(frozen=True)
class Subject:
    """What a gate of speed asks.

    Attributes:
        gate: Its method.
        limits: All its limits in words.
        absolute: The limit that holds on the machine named by ``hardware`` only, such as ``max_ms: 12``; empty where
            there is none.
        unit: Of that limit, as its check is named.
        decide: Turns a measurement into checks, with intervals of the given confidence; the last argument says whether
            the absolute limit is judged.
    """

    gate: str
    limits: str
    absolute: str
    unit: str
    decide: Callable[[load.Measurement, float, bool], list[Check]]


def judged(
    subject: Subject, options: load.LoadOptions, evidence: Evidence, clock: load.Clock
) -> tuple[GateResult, load.Measurement]:
    """Measure both deployments until the gate can decide; a refusal by the candidate fails.

    An absolute limit that does not hold on this machine is reported under ``not_binding``, and if it is the only limit,
    the gate is inconclusive.

    Raises:
        DataError: If there are no evaluation samples.
    """
    ask.sample_count(evidence)
    unjudgeable = looks.unjudgeable(subject.gate, subject.limits, options.batch, evidence)
    if unjudgeable is not None:
        return unjudgeable, load.Measurement()
    binding = options.hardware is not None and limits.matches(options.hardware, evidence.hardware)
    feeds = lengths.at(evidence.feeds, evidence.sizes, options.lengths)
    with load.SideBySide(evidence, feeds, options, clock=clock) as pair:
        checks = looks.until_decided(
            pair,
            options,
            evidence,
            what=subject.gate,
            decide=lambda measured, confidence: subject.decide(measured, confidence, binding),
        )
    checks = limits.resting_on(checks, pair.measured.requests)
    details = looks.figures(pair.measured, options) | advising.done(evidence)
    if subject.absolute and not binding:
        machine = ", ".join((evidence.hardware.cpu, *evidence.hardware.gpus))
        note = f"{subject.absolute} holds on {options.hardware!r} and was not judged here ({machine})"
        details["not_binding"] = note
        if not checks:
            name = named(subject.unit, options)
            checks = [Check(name, None, subject.limits, Verdict.INCONCLUSIVE, note=note)]
    tables = lengths.table([feeds], evidence.sizes, evidence.feeds)
    return GateResult(subject.gate, tuple(checks), details, tables=tables), pair.measured


def named(what: str, options: load.LoadOptions) -> str:
    """Return the name of a check: what was measured, under which load."""
    under = {"batch": options.batch, "concurrency": options.concurrency, **options.lengths}
    return f"{what} ({', '.join(f'{name} {value}' for name, value in under.items())})"
