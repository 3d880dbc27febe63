"""What lint says: a `Hit` of a rule, and the `Finding` that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mmdeploy.triton.lint.reading import Model, Repositories


class Severity(StrEnum):
    """ERROR: Triton refuses the model. WARNING: it loads, but not as the author can have meant it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Hit:
    """One place where a rule is broken.

    Attributes:
        message: What is wrong.
        remedy: What to do.
        at: Path of the field, such as ``input[1].dims``; empty for the model as a whole.
        line: The line, where it does not follow from ``at``.
    """

    message: str
    remedy: str
    at: str = ""
    line: int | None = None


@dataclass(frozen=True)
class Rule:
    """A rule: its severity, and the check that gives its hits in one model."""

    severity: Severity
    check: Callable[[Model, Repositories], Iterator[Hit]]


@dataclass(frozen=True)
class Finding:
    """Something wrong with a repository.

    Attributes:
        rule: Id of the rule.
        severity: Whether Triton refuses it.
        model: Name of the model.
        file: The file or folder.
        line: Line in the file, from 1; None where it is about no line.
        message: What is wrong.
        remedy: What to do.
    """

    rule: str
    severity: Severity
    model: str
    file: Path
    line: int | None
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{where} {self.severity} {self.rule}: {self.message}; {self.remedy}"
