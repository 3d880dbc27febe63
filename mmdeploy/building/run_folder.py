"""The folder of one run: logs, the staged repository, the reports."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmdeploy.core.store import translated

#: Runs of a recipe whose folders are kept, the new one included.
_RUNS_KEPT = 10


def run_folder(workdir: Path, recipe: str, run_id: str) -> Path:
    """Make the folder of a run and let ``latest`` point to it; remove the oldest ones beyond the number kept."""
    runs = workdir / "runs" / recipe
    folder = runs / run_id
    with translated(workdir):
        (folder / "logs").mkdir(parents=True)
        link = runs / f".latest-{run_id}"
        link.symlink_to(run_id)
        link.replace(runs / "latest")
    kept = sorted(path for path in runs.iterdir() if path.is_dir() and not path.is_symlink())
    for old in kept[:-_RUNS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder
