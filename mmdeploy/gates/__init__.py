"""Gates judge what is really served: pass, fail or inconclusive. A "no" is a result, never an exception."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from mmdeploy.core.contracts import Evidence, Gate, GateResult, MethodOptions, Verdict, method_of
from mmdeploy.gates import accuracy, latency, memory, parity, size, throughput

METHODS: Mapping[str, Gate] = {
    "parity": parity,
    "accuracy": accuracy,
    "latency": latency,
    "throughput": throughput,
    "size": size,
    "memory": memory,
}


def run_all(
    gates: Sequence[MethodOptions],
    evidence: Evidence,
    *,
    started: Callable[[str], None] = lambda method: None,
    finished: Callable[[GateResult, float], None] = lambda result, seconds: None,
) -> tuple[tuple[GateResult, ...], Verdict]:
    """Run every gate, whatever the others say, and return the results and the one verdict of all.

    Args:
        gates: Options of the gates in the recipe's order.
        evidence: Both deployments, up and ready, and what they are judged on.
        started: Called with a gate's method before it runs.
        finished: Called with what it found and the seconds it took.

    Raises:
        DataError: If the evaluation data cannot be used.
        ServerError: If a server dies.
    """
    results = []
    for options in gates:
        method, since = method_of(options), time.monotonic()
        started(method)
        results.append(METHODS[method].check(options, evidence))
        finished(results[-1], time.monotonic() - since)
    return tuple(results), Verdict.of_all([result.verdict for result in results])
