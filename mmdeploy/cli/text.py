"""Plain text for terminals, pipes and logs: aligned columns and wrapped paragraphs.

Of the forms of a table the first that fits the width is taken; words, and so paths, stay whole in each:

- columns as wide as their cells;
- columns in which what is long is wrapped between words;
- the last column's cells below the line of the others, indented: reasons, remedies, lists;
- a paragraph a row, a line a cell.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mmdeploy.rollout.promote import Promotion

#: The width to write for where there is no terminal, as of a terminal that nobody has changed.
_PIPED_COLUMNS = 80
_GAP, _BELOW = "  ", "    "
#: No column is made narrower than this, and the last, which mostly holds sentences, than that: they would be towers.
_NARROWEST, _NARROWEST_LAST = 12, 32

_Row = Sequence[Sequence[str]]
#: Tabs, and joiners that scripts and emoji need.
_HARMLESS = "\t\u200c\u200d\u00ad"


def columns(stream: TextIO | None = None) -> int:
    """Return the width to write for: what COLUMNS says, or the terminal's, or 80 where there is none.

    Args:
        stream: Where it is written to; None for standard output.
    """
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    stream = stream or sys.stdout
    with contextlib.suppress(OSError, ValueError):
        if stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns or _PIPED_COLUMNS
    return _PIPED_COLUMNS


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align cells under a header; a cell may have several lines."""
    found = [[printable(cell).split("\n") for cell in row] for row in (header, *rows)]
    room = columns()
    if (widths := _narrowed(found, room, _NARROWEST_LAST)) is not None:
        return "\n".join(line for row in found for line in _aligned(row, widths))
    if (widths := _narrowed([row[:-1] for row in found], room, 0)) is not None:
        return "\n".join(_with_last_below(found, widths, room))
    return "\n".join(_paragraphs(found[0], found[1:], room))


def _narrowed(rows: Sequence[_Row], room: int, least_of_last: int) -> list[int] | None:
    """Return the width of each column, so that all fit; None where they cannot. Words of the last may stick out."""
    if not rows[0]:
        return None
    by_column = [[line for row in rows for line in row[number]] for number in range(len(rows[0]))]
    widths = [max(map(_width, lines)) for lines in by_column]
    least = [
        max(min(width, _NARROWEST), *map(_longest_word, lines)) for width, lines in zip(widths, by_column, strict=True)
    ]
    least[-1] = min(widths[-1], max(least_of_last, *map(_width, rows[0][-1]))) if least_of_last else 0
    room -= len(_GAP) * (len(widths) - 1)
    if sum(widths) > room and sum(least) > room:
        return None
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda number: (widths[number] > least[number], widths[number]))
        widths[widest] -= 1
    return widths


def _aligned(row: _Row, widths: Sequence[int]) -> Iterator[str]:
    cells = [wrapped_lines(cell, width) for cell, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, cells))):
        parts = [cell[number] if number < len(cell) else "" for cell in cells]
        padded = (part + " " * (width - _width(part)) for part, width in zip(parts, widths, strict=True))
        yield _GAP.join(padded).rstrip()


def _with_last_below(rows: Sequence[_Row], widths: Sequence[int], room: int) -> Iterator[str]:
    for row in rows:
        yield from _aligned(row[:-1], widths)
        yield from wrapped_lines([f"{_BELOW}{line}" for line in row[-1] if line], room)


def _paragraphs(header: _Row, rows: Sequence[_Row], room: int) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield from [""] if number else []
        yield from (line for line in row[0] if line)
        for title, cell in zip(header[1:], row[1:], strict=True):
            if any(cell):
                name = f"{' '.join(title)}: " if any(title) else ""
                yield from wrapped_lines([f"  {name}{cell[0]}", *(f"{_BELOW}{line}" for line in cell[1:])], room)


def wrapped_lines(lines: Sequence[str], width: int) -> list[str]:
    """Wrap lines between words; what goes on is indented as its beginning. Words, and so paths, stay whole."""
    found = []
    for line in lines:
        if _width(line) <= width:
            found.append(line)
        else:
            indent = " " * (len(line) - len(line.lstrip(" ")))
            found += textwrap.wrap(
                line, max(width, 1), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
    return found


def _longest_word(line: str) -> int:
    indent = len(line) - len(line.lstrip(" "))
    return indent + max(map(_width, line.split()), default=0)


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes: CJK and emoji take two, what is combined none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


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


def cut(line: str) -> str:
    """Cut a line to the width that is there, between words and best where a clause ends, with ``…`` at its end."""
    room = max(40, columns())
    if len(line) <= room:
        return line
    words = line[: room - 1].rpartition(" ")[0]
    clause = max(words.rfind(mark) for mark in (", ", ": ", "; ", " ("))
    return f"{words[:clause] if clause > room * 0.6 else words.rstrip(' ,;:.')} …"


def wrapped(text: str, indent: str = "", *, hanging: int = 0) -> str:
    """Wrap a paragraph to the width that is there; lines after the first are indented by ``hanging`` more."""
    return textwrap.fill(
        " ".join(text.split()),
        width=max(40, columns()),
        initial_indent=indent,
        subsequent_indent=indent + " " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def promotion_text(promotion: Promotion) -> str:
    """Say what a promotion did, in lines."""
    ensemble, release = promotion.ensemble, promotion.release_id
    if not promotion.changed:
        return f"{ensemble}: {release} serves already"
    was = f", {promotion.before} no more" if promotion.before and promotion.before != release else ""
    checked = f"{counted(promotion.checked, 'golden request')} answered as in the build"
    if not promotion.checked:
        checked = "the release has no golden requests: it answered a sample, and whether rightly is not known"
    parts = f"{counted(len(promotion.loaded), 'part')} loaded, {len(promotion.reused)} kept"
    return (
        f"{ensemble}: {release} serves{was}\n  {checked}\n  {parts}, {len(promotion.unloaded)} unloaded; "
        f"the ensemble was moved in {promotion.swap_s * 1000:.0f} ms"
    )
