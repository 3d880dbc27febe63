import threading

import numpy as np
import pytest
from gate_evidence import SteppedClock, TimedDeployment, deployment, evidence, fusion
from pydantic import ValidationError

from mmdeploy.core.contracts import Verdict
from mmdeploy.gates import throughput


def options(**given):
    return throughput.Options(method="throughput", **({"concurrency": 1} | given))


def judge(candidate_ms, reference_ms, *, given=None, **limits):
    clock = SteppedClock()

    def noisy(seed, mean_ms):
        rng = np.random.default_rng(seed)
        return lambda: mean_ms * 1e-3 * rng.lognormal(0.0, 0.03)

    sides = {
        "candidate": TimedDeployment(deployment(), clock, noisy(1, candidate_ms)),
        "reference": TimedDeployment(deployment(), clock, noisy(2, reference_ms)),
    }
    return throughput.check(options(**limits), evidence(**sides, **(given or {})), clock=clock)


@pytest.mark.parametrize(("candidate_ms", "verdict"), [(10, Verdict.PASS), (16, Verdict.PASS), (20, Verdict.FAIL)])
def test_the_ratio_decides(candidate_ms, verdict):
    result = judge(candidate_ms, 20, min_ratio_to_reference=1.12)
    assert result.verdict is verdict
    assert result.checks[0].measured == pytest.approx(20 / candidate_ms, rel=0.05)


def test_a_ratio_at_the_limit_is_inconclusive():
    assert judge(2.0, 2.0, min_ratio_to_reference=1.0, max_seconds=5).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("batch", [1, 8])
def test_samples_are_counted_and_not_requests(batch):
    result = judge(20, 20, min_per_second=40.0 * batch, hardware="acme*", batch=batch)
    (check,) = result.checks
    assert check.measured == pytest.approx(50 * batch, rel=0.03)
    assert (check.verdict, check.unit) == (Verdict.PASS, "samples/s")
    assert result.details["reference_per_second"] == pytest.approx(50 * batch, rel=0.03)


def test_an_absolute_limit_elsewhere_is_not_judged():
    alone = judge(2.0, 2.0, min_per_second=1e9, hardware="other")
    assert alone.verdict is Verdict.INCONCLUSIVE
    both = judge(20, 20, min_per_second=1e9, min_ratio_to_reference=0.8, hardware="other")
    assert both.verdict is Verdict.PASS
    assert "holds on 'other'" in both.details["not_binding"]


def test_a_stand_in_is_not_measured():
    result = judge(2.0, 2.0, min_ratio_to_reference=0.9, given={"substitute": "no driver"})
    assert (result.verdict, result.checks[0].measured) == (Verdict.INCONCLUSIVE, None)


def test_as_many_requests_are_in_flight_as_asked_for():
    """Each request waits until four are in flight: with fewer clients nothing would ever be answered."""
    meeting = threading.Barrier(4)
    flying, most = [], []

    def waiting(image, audio):
        flying.append(1)
        most.append(len(flying))
        meeting.wait(timeout=60)
        flying.pop()
        return fusion(image, audio)

    clock = SteppedClock()
    sides = {
        "candidate": TimedDeployment(deployment({"fusion": waiting}), clock, lambda: 0.001),
        "reference": TimedDeployment(deployment(), clock, lambda: 0.001),
    }
    given = options(min_ratio_to_reference=0.01, concurrency=4, requests=80, warmup=4)
    result = throughput.check(given, evidence(**sides), clock=clock)
    assert result.verdict is Verdict.PASS
    assert max(most) <= 7  # four waiting, and those already let go


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one limit: min_ratio_to_reference or min_per_second"),
        ({"min_per_second": 5}, "name its CPU or GPU in hardware"),
    ],
)
def test_options_that_make_no_sense(given, message):
    with pytest.raises(ValidationError, match=message):
        options(**given)
