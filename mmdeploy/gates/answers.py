"""What can be wrong with answers before anything is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mmdeploy.core.contracts import Array, Check, Evidence
from mmdeploy.core.samples import shapes_of
from mmdeploy.scoring import ragged


def problem(expected: Array, answered: Array | None, output: str, side: str) -> str:
    """Say why an output cannot be compared with the original's; empty when it can.

    Args:
        expected: What the original gives.
        answered: What was answered; None where the output is missing.
        output: Name of the tensor.
        side: Who answered, such as ``candidate``.
    """
    if answered is None:
        return f"the {side}'s answer lacks the output {output!r}"
    if not ragged.same_shapes(expected, answered):
        return _other_shapes(expected, answered, side)
    broken = int((~ragged.finite(answered)).sum())
    return f"{broken} of the {side}'s {len(answered)} answers hold NaN or Inf" if broken else ""


def _other_shapes(expected: Array, answered: Array, side: str) -> str:
    """Say which shapes differ: of all samples, or of the first where only some do."""
    ours, theirs = (list(shapes_of(column)) for column in (answered, expected))
    apart = [row for row, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    one = f"{[*(ours[apart[0]] or ())]} a sample, the original {[*(theirs[apart[0]] or ())]}"
    some = "" if len(apart) == len(ours) else f": {len(apart)} of {len(ours)} samples, the first is sample {apart[0]}"
    return f"the {side} answers {one}{some}"


def of_whom(checks: Iterable[Check], evidence: Evidence) -> tuple[Check, ...]:
    """Return checks of answers, each with a note where a stand-in gave them: the engine's own are not known."""
    if evidence.substitute is None:
        return tuple(checks)
    said = "answers of a stand-in: the engine that would be published could not be asked here"
    return tuple(replace(one, note="; ".join(part for part in (one.note, said) if part)) for one in checks)
