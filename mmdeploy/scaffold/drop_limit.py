"""How large a drop of accuracy an evaluation set can decide on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

#: The drop that is asked for where there are samples enough.
WANTED = 0.01
#: Share of the samples whose answers may turn from right to wrong, and as many the other way: INT8 does so at the edges
#: between classes.
_TURNED = 0.02
#: So few samples show no drop that anyone would want to allow.
_FEWEST = 25
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class DropLimit:
    """Options of an accuracy gate that a number of samples can decide.

    Attributes:
        options: ``max_drop``, and ``rule`` where the estimate is not enough.
        why: A comment; empty where there is nothing to say.
    """

    options: Mapping[str, float | str]
    why: str = ""


def drop_limit(samples: int) -> DropLimit:
    """Propose a limit on the loss of right answers.

    Enough samples: the estimate is held against 0.01. Fewer: the limit that the whole interval of the loss keeps, where
    one sample of a hundred (two at least) is lost besides those that turn both ways. Nothing is decided by a handful.

    Args:
        samples: How many the gate judges on; 0 where that is not known.
    """
    from mmdeploy.gates import accuracy
    from mmdeploy.gates.foreseen import foreseen
    from mmdeploy.scoring.metrics import paired_proportion_interval

    wanted = accuracy.Options(metric="top1", max_drop=WANTED)
    if foreseen(wanted, samples) is None:
        return DropLimit({"max_drop": WANTED})
    if samples < _FEWEST:
        return DropLimit(
            {"max_drop": round(min(1.0, 2 / samples), 3)},
            f"{samples} samples decide nothing, and a build says so: give a hundred or more.",
        )
    turned = round(_TURNED * samples)
    lost = turned + max(2, round(WANTED * samples))
    high = paired_proportion_interval(lost, turned, samples, confidence=_CONFIDENCE)[1]
    return DropLimit(
        {"max_drop": math.ceil(200 * high) / 200, "rule": "interval"},
        f"{samples} samples cannot tell a smaller loss from none: `rule: interval` lets a build pass only where its "
        f"whole interval keeps the limit. About 1600 samples decide {WANTED:g}; take the rule out then.",
    )
