"""What a run has come to so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmdeploy.building.judge import Judgement
    from mmdeploy.core.artifact import Artifact
    from mmdeploy.record.build_report import StepRecord


@dataclass
class RunState:
    """What a run has come to so far."""

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    records: dict[str, StepRecord] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)  # steps that run now, by the clock of this process
    plain_recipe: Path | None = None
    judgement: Judgement | None = None
    published: Path | None = None
    release: str | None = None
    notes: list[str] = field(default_factory=list)
