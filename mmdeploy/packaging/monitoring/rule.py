"""Rules of Prometheus as objects: what is recorded, and what is alerted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

Level = Literal["P0", "P1", "P2", "P3"]
#: What each level asks of whom.
LEVELS: dict[Level, str] = {
    "P0": "users get no answers: page, at any hour",
    "P1": "users get errors or wait far too long: page",
    "P2": "it will hurt: a ticket, looked at on the next working day",
    "P3": "worth knowing: no ticket, looked at with the next release",
}


@dataclass(frozen=True)
class Recording:
    """A series that Prometheus computes at each evaluation.

    Attributes:
        record: Its name.
        expr: PromQL.
        labels: Added to it.
        meaning: What it is, for the runbook.
    """

    record: str
    expr: str
    meaning: str
    labels: tuple[tuple[str, str], ...] = ()

    def to_yaml(self) -> dict[str, Any]:
        """Return it as a rule file has it."""
        found: dict[str, Any] = {"record": self.record, "expr": self.expr}
        return found | ({"labels": dict(self.labels)} if self.labels else {})


@dataclass(frozen=True)
class Alert:
    """What fires when an expression has held for a while.

    Attributes:
        name: Such as ``MmdeployModelDead``.
        level: Who is woken.
        expr: PromQL.
        wait: How long it must hold.
        summary: A line for a pager; may hold templates.
        meaning: What it says, with the figures that the threshold was made of.
        action: What to do first: the runbook's line.
        ensemble: Whose.
        runbook: Where the runbook is.
    """

    name: str
    level: Level
    expr: str
    wait: str
    summary: str
    meaning: str
    action: str
    ensemble: str = ""
    runbook: str = ""

    def of(self, ensemble: str, runbook_url: str) -> Alert:
        """Return the alert of an ensemble."""
        return replace(self, ensemble=ensemble, runbook=f"{runbook_url}runbook.md#{self.name.lower()}")

    def to_yaml(self) -> dict[str, Any]:
        """Return it as a rule file has it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {"severity": self.level, "ensemble": self.ensemble},
            "annotations": {
                "summary": self.summary,
                "description": self.meaning,
                "runbook": self.action,
                "runbook_url": self.runbook,
            },
        }


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated in order."""

    name: str
    rules: tuple[Recording | Alert, ...]

    def to_yaml(self) -> dict[str, Any]:
        """Return it as a rule file has it."""
        return {"name": self.name, "rules": [rule.to_yaml() for rule in self.rules]}


def alerts(groups: tuple[Group, ...]) -> Iterator[Alert]:
    """Give the alerts of groups, in order."""
    yield from (rule for group in groups for rule in group.rules if isinstance(rule, Alert))
