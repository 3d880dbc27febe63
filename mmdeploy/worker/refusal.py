"""Why an engine does not take a graph: of several engines to choose from, that is no failure."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core import facts
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.errors import EngineError
from mmdeploy.planning.steps import REFUSED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """What an artifact of format `REFUSED` says: why, in words."""

    reason: str


def refusal(source: Artifact, workdir: Path, error: EngineError) -> Artifact:
    """Write down that an engine refuses a graph, and why."""
    logger.info("refused: %s", error)
    path = workdir / "refused.txt"
    path.write_text(f"{error}\n", encoding="utf-8")
    told = facts.as_metadata(Refusal(error.message))
    return Artifact(REFUSED, path, file_sha256(path), source.inputs, source.outputs, source.produced_by, told)


def reason(artifact: Artifact) -> str | None:
    """Return why an engine refused a graph; None for an engine that was built."""
    return facts.read(Refusal, artifact).reason if artifact.format == REFUSED else None
