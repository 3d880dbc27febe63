"""Calibration error: is the served ensemble as sure as it is right?

What it does: takes the softmax of the first output as confidence, sorts the samples into bins of equal width, and
averages over them by how far confidence and accuracy are apart (expected calibration error, Guo et al. 2017).
When to choose it: where somebody acts on the confidence, such as by a threshold. INT8 keeps the winner more often than
the margin. What it needs: labels, and class scores of shape [samples, classes].
Limits: the error is that of these samples; with few of them a bin holds a handful, and the error comes out too large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from mmdeploy.core.contracts import Check, Evidence, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import InferenceError
from mmdeploy.scoring import ask

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NEEDS_LABELS = True


class Options(MethodOptions):
    """Limits of the gate.

    Attributes:
        max_error: Largest expected calibration error of the candidate, from 0 to 1.
        max_increase: Largest increase against the PyTorch original.
        bins: Bins of equal width.
    """

    max_error: float | None = Field(None, gt=0, le=1)
    max_increase: float = Field(0.02, ge=0, le=1)
    bins: int = Field(10, ge=2, le=100)


def check(options: Options, evidence: Evidence) -> GateResult:
    """Compare the candidate's error with the limits."""
    output, labels = evidence.ensemble_outputs[0], evidence.labels
    try:
        answered = ask.answers(
            evidence.candidate,
            None,
            evidence.feeds,
            max_batch_size=evidence.max_batch_size,
            progress=evidence.progress,
            what="calibration error",
        )[output]
    except InferenceError as error:
        check = Check("calibration error", None, "an answer", Verdict.FAIL, note=error.message)
        return GateResult("calibration_error", (check,))
    found = expected_error(answered, labels, options.bins)
    original = expected_error(evidence.original[output], labels, options.bins)
    checks = [_compared("increase of the calibration error", found - original, options.max_increase)]
    if options.max_error is not None:
        checks.append(_compared("calibration error", found, options.max_error))
    return GateResult("calibration_error", tuple(checks), {"candidate": found, "original": original})


def advice(options: Options, result: GateResult) -> str:
    """Say what to do about a candidate that is too sure, or not sure enough."""
    return "calibrate on more samples, or divide the logits by a temperature that is fitted on validation data"


def expected_error(logits: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], bins: int) -> float:
    """Return the expected calibration error of class scores."""
    import numpy as np

    scores = np.asarray(logits, dtype=np.float64)
    likely = np.exp(scores - scores.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    sure, right = likely.max(axis=1), likely.argmax(axis=1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    apart = [abs(right[place == one].sum() - sure[place == one].sum()) for one in range(bins)]
    return float(sum(apart) / len(scores))


def _compared(name: str, value: float, limit: float) -> Check:
    return Check(name, value, f"<= {limit:g}", Verdict.PASS if value <= limit + 1e-9 else Verdict.FAIL)
