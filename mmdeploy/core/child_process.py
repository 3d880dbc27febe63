"""What a Python process that mmdeploy starts must find: this very mmdeploy, installed or not."""

from __future__ import annotations

import os
from pathlib import Path


def child_environment() -> dict[str, str]:
    """Return this process's environment, with which a child imports the mmdeploy that runs here."""
    here, known = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{known}" if known else here}
