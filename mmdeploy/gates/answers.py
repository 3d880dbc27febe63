"""What can be wrong with answers before anything is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mmdeploy.core.contracts import Array, Check, Evidence


def problem(expected: Array, answered: Array | None, output: str, side: str) -> str:
    """Say why an output cannot be compared with the original's; empty when it can.

    Args:
        expected: What the original gives.
        answered: What was answered; None where the output is missing.
        output: Name of the tensor.
        side: Who answered, such as ``candidate``.
    """
    import numpy as np

    if answered is None:
        return f"the {side}'s answer lacks the output {output!r}"
    if answered.shape != expected.shape:
        return f"the {side} answers {list(answered.shape[1:])} a sample, the original {list(expected.shape[1:])}"
    if answered.dtype.kind != "f":
        return ""
    broken = int((~np.isfinite(answered)).reshape(len(answered), -1).any(axis=1).sum())
    return f"{broken} of the {side}'s {len(answered)} answers hold NaN or Inf" if broken else ""


def of_whom(checks: Iterable[Check], evidence: Evidence) -> tuple[Check, ...]:
    """Return checks of answers, each with a note where a stand-in gave them: the engine's own are not known."""
    if evidence.substitute is None:
        return tuple(checks)
    said = "answers of a stand-in: the engine that would be published could not be asked here"
    return tuple(replace(one, note="; ".join(part for part in (one.note, said) if part)) for one in checks)
