"""What judging comes to: verdicts, checks against limits, and what a gate found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a gate, and the build as a whole, came to."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @classmethod
    def of_all(cls, verdicts: Sequence[Verdict]) -> Verdict:
        """Return FAIL if any failed, else INCONCLUSIVE if any is, else PASS."""
        for worst in (cls.FAIL, cls.INCONCLUSIVE):
            if worst in verdicts:
                return worst
        return cls.PASS


@dataclass(frozen=True)
class Check:
    """One measured number against its limit.

    Attributes:
        name: What was measured, such as ``fusion: cosine`` or ``p95 ratio (batch 1, concurrency 1)``.
        measured: The point estimate; None when it could not be measured.
        limit: The limit in words, such as ``>= 0.995``.
        verdict: Of this check alone.
        interval: Confidence interval of ``measured``, lower and upper.
        unit: Such as ``ms``, ``dB``, ``bytes``; empty for a ratio.
        note: Anything a reader must know, such as why it is inconclusive.
        samples: How many samples, or requests, the figure rests on; None where that says nothing, as for sizes.
    """

    name: str
    measured: float | None
    limit: str
    verdict: Verdict
    interval: tuple[float, float] | None = None
    unit: str = ""
    note: str = ""
    samples: int | None = None


@dataclass(frozen=True)
class ReviewTable:
    """What a gate shows a reviewer behind its checks, such as the samples whose answers differ.

    Attributes:
        title: What it is, such as ``recall per class``.
        head: Names of the columns.
        rows: A cell is a text, a number, or None; the first is what the row is about.
        note: What a reader must know, such as how many rows were left out.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class GateResult:
    """What a gate found; "no" is a result and never an exception.

    Attributes:
        gate: The gate's method, such as ``accuracy``.
        checks: Every comparison it made; its verdict is the worst of them.
        details: JSON-able figures for reports and plots.
        advice: What to do where it is no pass; `mmdeploy.gates.run_all` asks the gate for it.
        tables: What reports show a reviewer; short, since every rendering holds them.
    """

    gate: str
    checks: tuple[Check, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""
    tables: tuple[ReviewTable, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the checks."""
        return Verdict.of_all([check.verdict for check in self.checks])
