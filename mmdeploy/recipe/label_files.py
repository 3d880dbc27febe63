"""Checks of label files: one class name a line, as Triton reads them.

Triton takes each line as it is: a byte-order mark becomes a part of the first name, a carriage return one of each,
and a blank line moves every name after it. So these are refused, and so is another count of names than there are
classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def label_problem(name: str, root: Path, shape: Sequence[int] | None = None) -> str | None:
    """Say what is wrong with a label file that is there; None where nothing is.

    Args:
        name: Its path relative to ``root``.
        root: The recipe's folder.
        shape: Of the output, the batch left out; None where it is not known yet.
    """
    inside = root.resolve()
    if not (root / name).parent.resolve().is_relative_to(inside):
        return f"{name!r} leads out of the recipe's folder {inside}: put the file there"
    try:
        content = (root / name).read_bytes()
    except OSError as error:
        return f"{name!r} cannot be read: {error.strerror}"
    if content.startswith(_BYTE_ORDER_MARKS):
        return f"{name}:1 begins with a byte-order mark, which would be a part of the first name; save without one"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].count(b"\n")
        return f"{name}:{before + 1} is not UTF-8 text: {error.reason}"
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if "\r" in line:
            return f"{name}:{number} ends in a carriage return (CRLF), which would be a part of the name; save with LF"
        if not line.strip():
            return f"{name}:{number} is blank: one class name a line, none left out"
    return count_problem(name, len(lines), shape)


def count_problem(name: str, names: int, shape: Sequence[int] | None) -> str | None:
    """Say that a label file has another number of names than its output has values for a sample."""
    if shape is None or -1 in shape or names == math.prod(shape):
        return None
    return (
        f"{name} has {names} names, but the output has {math.prod(shape)} values a sample (its shape is {list(shape)})"
    )


def names_in(file: Path) -> int:
    """Count the names in a label file that has been checked."""
    return len(file.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
