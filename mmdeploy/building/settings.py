"""How to build, as opposed to what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.shared_store import SharedStore
from mmdeploy.triton.repository import DESTINATION


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
        publishes: Whether what passes is published; a study builds to compare, and leaves what is live alone.
        runs_in: Work folder that the run's folder lies in, if another than the store does: so that many builds of a
            study do not push out the runs of a person.
        shared: Where results are taken from that other machines made, and those of this one are sent to; None shares
            nothing.
        on: Cluster that steps run on, as ``--on`` takes it: ``ray`` for one on this machine, or an address; None runs
            them here.
    """

    workdir: Path = Path(".mmdeploy")
    destination: Path = DESTINATION
    jobs: int | None = None
    processes: int = 1
    publish_unverified: bool = False
    fresh: bool = False
    sign_key: Path | None = None
    publishes: bool = True
    runs_in: Path | None = None
    shared: SharedStore | None = None
    on: str | None = None
