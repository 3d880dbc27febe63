"""The contract of a gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdeploy import gates
from mmdeploy.core.contracts import Evidence, GateResult, Verdict
from mmdeploy.core.errors import MmdeployError
from mmdeploy.testing.expectations import expect, expect_json, options_of, plugged
from mmdeploy.testing.served import ABSENCE, REFUSAL, absent, deployment, evidence


def check_gate(
    gate: object, options: Mapping[str, Any], *, asks_the_candidate: bool = True, measures_the_server: bool = False
) -> None:
    """Take a gate through what every gate must keep.

    An equal candidate passes, one that refuses or is not there is a "no" with its reason and no exception, samples may
    be served one at a time, and of a stand-in nothing is said that only the real engine can show.

    Args:
        gate: A module, or a class in one.
        options: What a recipe gives, with limits that equals keep by a wide margin.
        asks_the_candidate: Whether it sends requests to the candidate.
        measures_the_server: Whether it judges time or memory, which a stand-in's say nothing about.

    Raises:
        AssertionError: Saying what does not hold.
    """
    method = plugged(gate, gates.METHODS)
    given = options_of(method, options)

    def judged(what: str, seen: Evidence) -> GateResult:
        try:
            result: object = method.check(given, seen)
        except MmdeployError as error:
            raise AssertionError(f"{what} is an exception, and must be a result: {error.message}") from error
        expect(isinstance(result, GateResult), f"check gave {type(result).__name__}, and must give a GateResult")
        assert isinstance(result, GateResult)
        _expect_whole(result, what)
        advice = method.advice(given, result)
        expect(advice is None or (isinstance(advice, str) and advice.strip()), "advice must be words, or None")
        return result

    equal = judged("an equal candidate", evidence())
    _expect_verdict(equal, Verdict.PASS, "an equal candidate")
    expect(all(check.measured is not None for check in equal.checks), "an equal candidate was not measured")
    no = Verdict.FAIL if asks_the_candidate else Verdict.PASS
    for what, candidate, reason in (
        ("a candidate that refuses", deployment(refuses=True), REFUSAL),
        ("a candidate that is not served", absent(), ABSENCE),
    ):
        result = judged(what, evidence(candidate=candidate))
        _expect_verdict(result, no, what)
        told = any(reason in check.note for check in result.checks)
        expect(told or not asks_the_candidate, f"{what}: no check's note has the reason, {reason!r}")
    stand_in = judged("a stand-in", evidence(substitute="no GPU"))
    _expect_verdict(stand_in, Verdict.INCONCLUSIVE if measures_the_server else Verdict.PASS, "a stand-in")
    if measures_the_server:
        silent = all(check.measured is None and check.note == "no GPU" for check in stand_in.checks)
        expect(silent, "a stand-in was measured: its time and memory are not those of the engine")
    _expect_verdict(judged("one sample at a time", evidence(max_batch_size=0)), Verdict.PASS, "one sample at a time")


def _expect_whole(result: GateResult, what: str) -> None:
    expect(result.checks, f"{what}: there is no check: say what was compared with which limit")
    for check in result.checks:
        expect(check.name and check.limit, f"{what}: a check needs a name and a limit in words, not {check}")
        if check.interval is not None and check.measured is not None:
            inside = check.interval[0] <= check.measured <= check.interval[1]
            expect(inside, f"{what}: {check.name}: {check.measured} lies outside its interval {check.interval}")
    expect_json(dict(result.details), f"{what}: details")


def _expect_verdict(result: GateResult, wanted: Verdict, what: str) -> None:
    expect(result.verdict is wanted, f"{what}: the verdict is {result.verdict}, and must be {wanted}: {result.checks}")
