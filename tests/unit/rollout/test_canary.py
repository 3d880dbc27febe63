"""What is said of a candidate on live traffic, from what a gateway has counted."""

from typing import Any

import numpy as np
import pytest

from mmdeploy.rollout.canary import Finding, Limits, findings


def arm(requests: int, failed: int, mean_ms: float, seed: int) -> dict[str, Any]:
    latencies = np.random.default_rng(seed).lognormal(np.log(mean_ms), 0.1, requests - failed)
    return {"requests": requests, "failed": failed, "latencies_ms": latencies.tolist()}


def state(live: dict[str, Any], candidate: dict[str, Any], agree: int | None = None) -> dict[str, Any]:
    compared = {"pairs": candidate["requests"] if agree is not None else 0, "agree": agree or 0}
    return {"shadow": agree is not None, "arms": {"live": live, "candidate": candidate}, "compared": compared}


def verdicts(counted: dict[str, Any]) -> list[str]:
    found = findings(counted, Limits(), confidence=0.975)
    return ["pass" if one.passed else "fail" if one.failed else "open" for one in found]


@pytest.mark.parametrize(
    ("requests", "failed", "mean_ms", "agree", "expected"),
    [
        (800, 0, 10.0, None, ["pass", "pass"]),
        (100, 0, 10.0, None, ["open", "pass"]),
        (800, 80, 10.0, None, ["fail", "pass"]),
        (800, 0, 20.0, None, ["pass", "fail"]),
        (800, 0, 10.0, 790, ["pass", "pass", "pass"]),
        (800, 0, 10.0, 400, ["pass", "fail", "pass"]),
        (800, 0, 10.0, 724, ["pass", "open", "pass"]),
        (30, 0, 10.0, None, ["open"]),
    ],
)
def test_verdicts(requests: int, failed: int, mean_ms: float, agree: int | None, expected: list[str]) -> None:
    live, candidate = arm(2000, 0, 10.0, 1), arm(requests, failed, mean_ms, 2)
    assert verdicts(state(live, candidate, agree)) == expected


def test_failures_of_both_are_no_fault_of_the_candidate() -> None:
    assert verdicts(state(arm(4000, 400, 10.0, 1), arm(4000, 400, 10.0, 2)))[0] == "pass"


def test_without_requests_nothing_is_said() -> None:
    assert findings(state(arm(10, 0, 1.0, 1), arm(0, 0, 1.0, 2)), Limits(), confidence=0.95) == ()


def test_a_finding_tells_its_interval_and_its_limit() -> None:
    assert str(Finding("p95 over live's", 0.9, 1.1234, 1.5)) == "p95 over live's 0.9 to 1.12 (<= 1.5)"
    assert str(Finding("answers that agree", 0.5, 1.0, 0.9, at_least=True)) == "answers that agree 0.5 to 1 (>= 0.9)"
