"""The folder of one run: logs, the staged repository, the reports."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from mmdeploy.core.store import translated

#: Runs of a recipe whose folders are kept, the new one included.
_RUNS_KEPT = 10
#: What runs are called; a folder of another name is not ours to remove.
_RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


def run_folder(workdir: Path, recipe: str, run_id: str) -> Path:
    """Make the folder of a run and let ``latest`` point to it; remove the oldest ones beyond the number kept.

    A work folder that was copied without its links has a folder ``latest``: it is set aside, not emptied. Where links
    cannot be made, there is none.
    """
    runs = workdir / "runs" / recipe
    folder, latest = runs / run_id, runs / "latest"
    with translated(workdir):
        (folder / "logs").mkdir(parents=True)
        if latest.is_dir() and not latest.is_symlink():
            latest.rename(runs / f"latest-before-{run_id}")
        link = runs / f".latest-{run_id}"
        with contextlib.suppress(PermissionError, NotImplementedError):
            link.symlink_to(run_id)
            link.replace(latest)
    kept = sorted(path for path in runs.iterdir() if _RUN.fullmatch(path.name) and not path.is_symlink())
    for old in kept[:-_RUNS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder
