"""What samples were answered with, as an artifact: columns in files, and an index of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.worker.task import Task


def indexed(index: Mapping[str, Any], workdir: Path, task: Task, split: str, *, count: int, by: str) -> Artifact:
    """Write the index.

    Args:
        index: How each column is read, by name.
        workdir: Folder of the step, where the columns are.
        task: Of the step; the split's set of samples is among its artifacts.
        split: What was answered.
        count: Samples of it.
        by: The library that answered.
    """
    path = workdir / "index.json"
    path.write_text(json.dumps(index, indent=1), encoding="utf-8")
    given = task.artifacts[DATA_SETS[split]].inputs
    return Artifact("reference", path, file_sha256(path), given, (), by, metadata={"samples": count})
