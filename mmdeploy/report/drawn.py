"""Panels that an earlier page has already: drawing one takes half a second, importing Matplotlib another.

A panel in a page names what it was drawn of: its title and figures, this code, and the version of Matplotlib. A later
page takes it over where all of that is the same, which is so of a build that has nothing to do.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ATTRIBUTE = "data-drawn"
_START, _END = "<svg", "</svg>"


def drawn(draw: Callable[[str, Any], str], title: str, records: Any, earlier: str) -> str:
    """Return a panel, as an earlier page has it or drawn now.

    Args:
        draw: Draws it; the answer is an SVG element.
        title: Its title.
        records: What is shown: their representation tells all of it.
        earlier: Text of a page that may have it; empty without one.
    """
    shown = [draw.__name__, title, repr(records), _code(), importlib.metadata.version("matplotlib")]
    start = f'{_START} {_ATTRIBUTE}="{hashlib.sha256(repr(shown).encode()).hexdigest()}"'
    at = earlier.find(start)
    end = earlier.find(_END, at)
    if -1 < at < end:
        return earlier[at : end + len(_END)]
    return draw(title, records).replace(_START, start, 1)


def page_before(folder: Path, name: str) -> str:
    """Return the page of the newest run beside a run's folder that has one; empty where none has.

    Args:
        folder: Of the run; folders of runs sort by time.
        name: Of the page in it.
    """
    try:
        pages = [page for page in folder.parent.glob(f"*/{name}") if page.parent.name < folder.name]
        return max(pages, key=lambda page: page.parent.name).read_text(encoding="utf-8") if pages else ""
    except (OSError, UnicodeDecodeError):
        return ""


@functools.cache
def _code() -> str:
    """Return a digest of what draws: the modules of this room."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()
