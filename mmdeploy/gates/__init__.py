"""Gates judge what is really served: pass, fail or inconclusive. A "no" is a result, never an exception."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Evidence, Gate, GateResult, MethodOptions, Verdict, method_of
from mmdeploy.core.errors import StepError
from mmdeploy.plugins.contract import GATE
from mmdeploy.plugins.registry import Registry

if TYPE_CHECKING:  # the type checker holds each against the contract; who checks one imports no other
    from mmdeploy.gates import accuracy, early_exit, graceful, latency, memory, parity, size, throughput

    GATES: tuple[Gate, ...] = (parity, accuracy, graceful, early_exit, latency, throughput, size, memory)

METHODS: Registry[Gate] = Registry(
    __name__,
    GATE,
    {
        "parity": "parity",
        "accuracy": "accuracy",
        "graceful": "graceful",
        "early_exit": "early_exit",
        "latency": "latency",
        "throughput": "throughput",
        "size": "size",
        "memory": "memory",
    },
)


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
        results.append(_checked(options, evidence))
        finished(results[-1], time.monotonic() - since)
    return tuple(results), Verdict.of_all([result.verdict for result in results])


def _checked(options: MethodOptions, evidence: Evidence) -> GateResult:
    """Return what a gate found, under the name that the recipe gives it."""
    from mmdeploy.gates import subsets

    method, gate = method_of(options), METHODS.of(options)
    result: object = subsets.judged(gate, options, evidence)
    if not isinstance(result, GateResult):
        raise StepError(f"the gate {method} returned {type(result).__name__}, expected a GateResult", step=method)
    advice = None if result.verdict is Verdict.PASS else gate.advice(options, result)
    return replace(result, gate=method, advice=advice or "")
