"""Where each field of a config.pbtxt stands: the protobuf library parses the text but does not say.

Grammar: https://protobuf.dev/reference/protobuf/textformat-spec/. The text has been parsed before, so nothing
is checked here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

_TOKEN = re.compile(r"""(?P<skip>\s+|\#[^\n]*)|(?P<string>"(\\.|[^"\\])*"|'(\\.|[^'\\])*')|[A-Za-z0-9_.+-]+|.""")
_STEP = re.compile(r"([^.\[]+)(?:\[(\d+)\])?")


def field_lines(text: str) -> dict[str, int]:
    """Return the line (from 1) of every field, by its path, such as ``ensemble_scheduling[0].step[1]``."""
    lines: dict[str, int] = {}
    _message(_Tokens(text), "", lines)
    return lines


def line_of(lines: Mapping[str, int], path: str) -> int | None:
    """Return the line of a field, or of the nearest message around it that is written.

    Args:
        lines: As `field_lines` gives them.
        path: Such as ``input[1].dims``; a field without an index is the first of its name.
    """
    parts = [f"{name}[{index or 0}]" for name, index in _STEP.findall(path)]
    for length in range(len(parts), 0, -1):
        if (line := lines.get(".".join(parts[:length]))) is not None:
            return line
    return None


class _Tokens:
    """Tokens with their lines; ``peek`` is the empty string at the end."""

    def __init__(self, text: str) -> None:
        self._all: Iterator[tuple[str, int]] = self._scan(text)
        self.peek, self.line = next(self._all, ("", 0))

    @staticmethod
    def _scan(text: str) -> Iterator[tuple[str, int]]:
        line = 1
        for match in _TOKEN.finditer(text):
            if match["skip"] is None:
                yield match[0], line
            line += match[0].count("\n")

    def take(self) -> str:
        token = self.peek
        self.peek, self.line = next(self._all, ("", self.line))
        return token


def _message(tokens: _Tokens, prefix: str, lines: dict[str, int]) -> None:
    seen: Counter[str] = Counter()
    while tokens.peek and tokens.peek not in "}>":
        line, name = tokens.line, tokens.take()
        if name in (",", ";"):
            continue
        if tokens.peek == ":":
            tokens.take()
        listed = tokens.peek == "["
        if listed:
            tokens.take()
        while tokens.peek:
            path = f"{prefix}{name}[{seen[name]}]"
            lines[path] = tokens.line if listed else line
            if listed and tokens.peek == "]":  # an empty list, or the end of one
                tokens.take()
                break
            seen[name] += 1
            _value(tokens, path, lines)
            if not listed:
                break
            if tokens.peek == ",":
                tokens.take()


def _value(tokens: _Tokens, path: str, lines: dict[str, int]) -> None:
    if tokens.take() in ("{", "<"):
        _message(tokens, f"{path}.", lines)
        tokens.take()
        return
    while tokens.peek[:1] in ("'", '"') and tokens.peek:  # adjacent strings are one value
        tokens.take()
