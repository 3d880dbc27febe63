"""How a build ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Artifact
    from mmdeploy.planning.steps import Plan
    from mmdeploy.record.build_report import BuildReport


@dataclass(frozen=True)
class Outcome:
    """How a build ended.

    Attributes:
        report: Everything a person or a CI system needs to know.
        folder: The run's folder.
        plan: The steps that were wanted.
        artifacts: What they made, by step id.
        error: What stopped it, or None when the gates came to a verdict.
    """

    report: BuildReport
    folder: Path
    plan: Plan
    artifacts: Mapping[str, Artifact]
    error: BaseException | None = None
