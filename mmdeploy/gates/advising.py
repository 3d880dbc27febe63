"""What several gates advise: on answers that differ too much, and on measurements that do not settle."""

from __future__ import annotations

from mmdeploy.core.contracts import GateResult, Verdict

LOSE_LESS = (
    "Where it was quantized, try another calibrator, more samples, or leaving out the most sensitive nodes; where it "
    "was pruned, prune less or train longer"
)
MORE_SAMPLES = "the interval straddles the limit; give more evaluation samples"
PAY_OR_LEAVE = "leave a component unquantized whose INT8 is not faster than its FP32"
MEASURE_AGAIN = "run again on a quiet machine, or measure longer"


def advised(result: GateResult, *, failed: str, undecided: str | None = None) -> str | None:
    """Return the advice for a verdict; None where a failed check has no figure, since its note says why."""
    if result.verdict is Verdict.INCONCLUSIVE:
        return undecided
    missed = [check for check in result.checks if check.verdict is Verdict.FAIL]
    return failed if any(check.measured is not None for check in missed) else None
