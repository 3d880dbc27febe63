"""One trial of a sweep: what was tried, what came of it, and why it may not count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mmdeploy.record.plain_json import jsonable
from mmdeploy.studies.objectives import Figure

#: ``passed``: may be published. ``failed`` and ``undecided``: a gate said no, or could not tell. ``broke``: the build
#: stopped. ``refused``: such values together are no recipe. ``stopped``: interrupted, and tried again. ``again``:
#: proposed a second time, and not built.
Status = Literal["passed", "failed", "undecided", "broke", "refused", "stopped", "again"]


@dataclass(frozen=True)
class Trial:
    """What became of one point.

    Attributes:
        number: Of those that count, from 0; -1 of one that was built before or was stopped.
        point: The values, by option.
        status: See `Status`.
        reason: Why it did not pass; empty where it did.
        figures: The objectives that its report has.
        folder: Where its recipe and report lie, in the study's folder; empty where it was not built.
        seconds: Of its build.
        ran: Steps that ran; the others came from the store.
        steps: Of the plan.
    """

    number: int
    point: Mapping[str, str]
    status: Status
    reason: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    folder: str = ""
    seconds: float = 0.0
    ran: int = 0
    steps: int = 0

    @property
    def built(self) -> bool:
        """Whether it was a build, which the budget counts."""
        return self.status in ("passed", "failed", "undecided", "broke")

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        return {name: jsonable(value) for name, value in asdict(self).items()}


def trial_of(fields: Mapping[str, Any]) -> Trial:
    """Read a trial back."""
    figures = {name: Figure(**{key: float(number) for key, number in one.items()})
               for name, one in fields["figures"].items()}  # fmt: skip
    return Trial(**{**fields, "figures": figures})


def words(point: Mapping[str, str], *, short: bool = False) -> str:
    """Write a point in one line.

    Args:
        point: The values, by option.
        short: Leave away what is the same in all options: ``components`` in front.
    """
    return " ".join(f"{_short(name) if short else name}={value}" for name, value in point.items())


def _short(option: str) -> str:
    return option.removeprefix("components.")
