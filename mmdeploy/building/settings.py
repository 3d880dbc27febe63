"""How to build, as opposed to what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How to build, as opposed to what.

    Attributes:
        workdir: Folder of the store and of the runs.
        destination: Where releases are published.
        jobs: Steps at once; None for as many as there are cores, at most one a component.
        processes: Processes that a step that trains runs on, under Accelerate's launcher. Their threads are shared out.
        publish_unverified: Publish although engines could not run on this machine and were judged by a
            substitute. Failed gates are never published.
        fresh: Run every step, whatever the store has; the new results take the place of the old ones.
        sign_key: Private key that a release is signed with, or None.
    """

    workdir: Path = Path(".mmdeploy")
    destination: Path = Path("model_repository")
    jobs: int | None = None
    processes: int = 1
    publish_unverified: bool = False
    fresh: bool = False
    sign_key: Path | None = None
