"""The line of the user's code that calls a function now, as messages show it: ``model.py:12: text``."""

from __future__ import annotations

import linecache
import sys
from functools import cache
from pathlib import Path
from types import FrameType

from mmdeploy.model.user_code import is_user_file


def line_of_call() -> str:
    """Return the user's line that calls a function of torch now; empty where a library does: it knows what it does."""
    return _found(within=False)


def line_above() -> str:
    """Return the nearest user's line, also where a library that it called is what calls now; empty without one."""
    return _found(within=True)


def line_at(filename: str, number: int) -> str:
    """Return a line of a file with its place."""
    return f"{filename.rpartition('/')[2]}:{number}: {linecache.getline(filename, number).strip()}"


def _found(*, within: bool) -> str:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if _is_user(filename):
            return line_at(filename, frame.f_lineno)
        if not within and not _is_passed_over(filename):
            return ""
        frame = frame.f_back
    return ""


@cache
def _is_user(filename: str) -> bool:
    return is_user_file(filename)


@cache
def _is_passed_over(filename: str) -> bool:
    import torch

    return any(Path(filename).is_relative_to(folder) for folder in (Path(torch.__file__).parent, Path(__file__).parent))
