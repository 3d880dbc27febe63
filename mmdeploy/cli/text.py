"""Plain text for terminals, pipes and logs: aligned columns and wrapped paragraphs."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

_PIPED_COLUMNS = 100
#: Tabs, and joiners that scripts and emoji need.
_HARMLESS = "\t\u200c\u200d\u00ad"


def columns() -> int:
    """Return the width to write for: the terminal's, or a fixed one where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPED_COLUMNS


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align cells under a header; a cell may have several lines."""
    cells = [[printable(cell).split("\n") for cell in row] for row in (header, *rows)]
    widths = [max(len(line) for row in cells for line in row[column]) for column in range(len(header))]
    lines = []
    for row in cells:
        for number in range(max(len(cell) for cell in row)):
            parts = [cell[number] if number < len(cell) else "" for cell in row]
            lines.append("  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """Show control characters as escapes: what is printed may come from file names, models and servers.

    Line feeds stay; a terminal would obey the others.
    """
    return "".join(
        character if character == "\n" or not _is_control(character) else _escaped(character) for character in text
    )


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf") and character not in _HARMLESS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def counted(number: int, noun: str) -> str:
    """Write ``1 gate`` or ``2 gates``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def wrapped(text: str, indent: str = "") -> str:
    """Wrap a paragraph to the width that is there."""
    return textwrap.fill(
        " ".join(text.split()),
        width=max(40, columns()),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
