"""Where Prometheus and its promtool are: on the PATH, or where ci/tools puts them."""

import os
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FETCHED = REPOSITORY / os.environ.get("VENV", ".venv") / "tools" / "usr" / "bin"


def binary(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``; skip the test where there is none, and say why."""
    found = shutil.which(name) or shutil.which(name, path=FETCHED)
    if found is None:
        pytest.skip(f"there is no {name} here: Debian's package prometheus has it, and ci/tools fetches it")
    return found
