"""An ensemble's model repository on disk, together with the ensemble that it was written from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.triton.staging import StagedRepository, lay_out, stage

if TYPE_CHECKING:
    from mmdeploy.core.digests import FileFacts
    from mmdeploy.triton.config import ServedEnsemble


@dataclass(frozen=True)
class Staged:
    """A model repository on disk and the ensemble that it was written from."""

    repository: StagedRepository
    ensemble: ServedEnsemble


def staged(folder: Path, ensemble: ServedEnsemble, facts: FileFacts | None = None, *, whole: bool = True) -> Staged:
    """Write an ensemble's model repository into an empty folder.

    Args:
        folder: Where to.
        ensemble: What is served.
        facts: Know digests of its files already.
        whole: Whether it is to be served now; what is only laid out can be completed.
    """
    return Staged((stage if whole else lay_out)(folder, ensemble, facts), ensemble)
