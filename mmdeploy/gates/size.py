"""Size: are the engines small enough on disk?

What it does: sums the bytes of the engines that would be published and compares them with a limit, absolute or
relative to the same components in FP32.
When to choose it: to see that quantization or pruning really reached the weights. Per-channel INT8 brings a
convolutional or attention block to 0.26 to 0.3; embedding tables stay FP32 unless quantized, so a text encoder ends
near 0.4. Small models keep a larger share, since the graph itself takes space.
What it needs: one of ``max_bytes``, ``max_ratio_to_reference``. Nothing is asked of the server.
Limits: bytes on disk are not memory in use (see the memory gate).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import Check, Evidence, GateResult, MethodOptions, Verdict
from mmdeploy.gates import advising, limits

REQUIRES: tuple[str, ...] = ()
NEEDS_LABELS = False


class Options(MethodOptions):
    """Limits of the size gate; at least one.

    Attributes:
        max_bytes: Largest sum of all engines, in bytes.
        max_ratio_to_reference: Largest share of the FP32 engines' bytes.
    """

    method: Literal["size"] = "size"
    max_bytes: int | None = Field(default=None, ge=1)
    max_ratio_to_reference: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.max_bytes is None and self.max_ratio_to_reference is None:
            raise ValueError("give at least one limit: max_bytes or max_ratio_to_reference")
        return self


def check(options: Options, evidence: Evidence) -> GateResult:
    """Compare the engines' bytes with the limits."""
    candidate, reference = dict(evidence.candidate.size_bytes()), dict(evidence.reference.size_bytes())
    total, reference_total = sum(candidate.values()), sum(reference.values())
    checks = []
    if options.max_bytes is not None:
        limit = limits.in_words(at_most=options.max_bytes, unit="bytes")
        verdict = limits.within(total, at_most=options.max_bytes)
        checks.append(Check("bytes on disk", float(total), limit, verdict, unit="bytes"))
    if options.max_ratio_to_reference is not None:
        limit = limits.in_words(at_most=options.max_ratio_to_reference)
        if reference_total > 0:
            ratio = total / reference_total
            verdict = limits.within(ratio, at_most=options.max_ratio_to_reference)
            checks.append(Check("size ratio", ratio, limit, verdict))
        else:
            note = "the reference has no engines to compare with"
            checks.append(Check("size ratio", None, limit, Verdict.INCONCLUSIVE, note=note))
    components = {
        name: {"candidate_bytes": candidate.get(name), "reference_bytes": reference.get(name)}
        for name in sorted(candidate.keys() | reference.keys())
    }
    details = {"candidate_bytes": total, "reference_bytes": reference_total, "components": components}
    return GateResult("size", tuple(checks), details)


def advice(options: Options, result: GateResult) -> str | None:
    """Say where to look."""
    return advising.advised(result, failed="its checks and the sizes below say which component is over")
