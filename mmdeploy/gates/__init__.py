"""Gates judge what is really served: pass, fail or inconclusive. A "no" is a result, never an exception."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmdeploy.contracts import Evidence, Gate, GateResult, MethodOptions, Verdict, method_of
from mmdeploy.gates import accuracy, latency, memory, parity, size, throughput

METHODS: Mapping[str, Gate] = {
    "parity": parity,
    "accuracy": accuracy,
    "latency": latency,
    "throughput": throughput,
    "size": size,
    "memory": memory,
}


def run_all(gates: Sequence[MethodOptions], evidence: Evidence) -> tuple[tuple[GateResult, ...], Verdict]:
    """Run every gate, whatever the others say, and return the results and the one verdict of all.

    Args:
        gates: Options of the gates in the recipe's order.
        evidence: Both deployments, up and ready, and what they are judged on.

    Raises:
        DataError: If the evaluation data cannot be used.
        ServerError: If a server dies.
    """
    results = []
    for index, options in enumerate(gates):
        method = method_of(options)
        evidence.progress(index, len(gates), f"gate: {method}")
        results.append(METHODS[method].check(options, evidence))
    evidence.progress(len(gates), len(gates), "gates")
    return tuple(results), Verdict.of_all([result.verdict for result in results])
