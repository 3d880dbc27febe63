"""A trace of requests: what was asked when, one request a line.

Each line is a JSON object with the ``time`` in seconds, never before that of the line above, and ``inputs``: by the
ensemble's input name what was sent. That is one of

- a text, such as a SHA-256: the same text stands for the same bytes;
- ``{"sample": 17}``: that sample of the recipe's evaluation data, from 0;
- ``{"file": "cat.npy"}``: a file beside the trace, as ``mmdeploy infer`` takes them;
- ``{"hash": "…", "bytes": 150528}``: as the text, with its size, which is for readers;
- a list of these: a request of several rows;
- null, or no such key: the request leaves the input out.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import UsageError, did_you_mean

_KINDS = ("hash", "sample", "file")
_ACCEPTED = 'a hash, {"sample": 17}, {"file": "cat.npy"}, {"hash": "…", "bytes": 150528}, or a list of these'
#: Characters of a value that a message shows; the time, in seconds, and the sample's number that still make sense.
_SHOWN, _LATEST_S, _MOST_SAMPLE = 60, 1e15, 2**31


@dataclass(frozen=True)
class Content:
    """What one row of an input holds; equal contents are equal bytes.

    Attributes:
        kind: ``hash``, ``sample`` or ``file``.
        value: The hash, the sample's number, or the file's path as the trace has it.
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return self.value if self.kind == "hash" else f"{self.kind} {self.value}"


Rows = tuple[Content, ...]


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        time_s: When it came, in seconds.
        inputs: The rows of each input that it has.
        line: Of the trace, from 1; 0 where it was read from none.
    """

    time_s: float
    inputs: Mapping[str, Rows]
    line: int = field(default=0, compare=False)

    @property
    def rows(self) -> int:
        """Number of rows, the batch."""
        return len(next(iter(self.inputs.values())))

    def to_json(self) -> str:
        """Write its line of a trace."""
        inputs = {name: [_written(one) for one in rows] for name, rows in self.inputs.items()}
        fields = {
            "time": self.time_s,
            "inputs": {name: one[0] if len(one) == 1 else one for name, one in inputs.items()},
        }
        return json.dumps(fields)


def read_trace(
    path: Path, inputs: Iterable[str], *, optional: Collection[str] | None = None, most_rows: int | None = None
) -> tuple[Request, ...]:
    """Read a trace of requests to an ensemble with these inputs; a byte order mark and Windows' line ends may be there.

    Args:
        path: The file.
        inputs: Of the ensemble.
        optional: Those that a request may leave out; None is all.
        most_rows: Rows that a request may have at most, if that is known.

    Raises:
        UsageError: Naming the line, if the file is not there, is no trace, or asks what the ensemble does not take.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as cause:
        raise UsageError(f"{path} cannot be read: {cause.strerror}") from cause
    known, before, requests = tuple(inputs), -math.inf, list[Request]()
    needed = () if optional is None else tuple(name for name in known if name not in optional)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = _request(_parsed(line), known, number)
            _check_taken(request, needed, most_rows)
        except ValueError as cause:
            hint = f"accepted for an input: {_ACCEPTED}" if str(cause).startswith("input ") else None
            raise UsageError(f"{path}:{number}: {cause}", hint=hint) from cause
        if request.time_s < before:
            raise UsageError(f"{path}:{number}: time {request.time_s:g} is before that of the line above, {before:g}")
        before = request.time_s
        requests.append(request)
    if not requests:
        raise UsageError(f"{path} has no requests: it is empty")
    return tuple(requests)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as cause:
        raise ValueError(f"not UTF-8: {cause.reason} at byte {cause.start}") from cause
    except json.JSONDecodeError as cause:
        raise ValueError(f"not JSON: {cause.msg} at column {cause.colno}") from cause
    except RecursionError as cause:
        raise ValueError("not JSON of a request: it is nested too deeply") from cause


def _check_taken(request: Request, needed: Iterable[str], most_rows: int | None) -> None:
    """Refuse a request that the ensemble would refuse whatever it holds."""
    for name in needed:
        if name not in request.inputs:
            raise ValueError(f"the request leaves out {name!r}, which is not optional in the recipe")
    if most_rows is not None and request.rows > most_rows:
        raise ValueError(f"{request.rows} rows, and the ensemble takes at most {most_rows} in a request")


def write_trace(path: Path, requests: Iterable[Request]) -> None:
    """Write a trace."""
    path.write_text("".join(f"{request.to_json()}\n" for request in requests), encoding="utf-8")


def _request(fields: Any, known: tuple[str, ...], line: int) -> Request:
    whole = isinstance(fields, dict) and set(fields) == {"time", "inputs"} and isinstance(fields["inputs"], dict)
    if not whole:
        raise ValueError('a request is {"time": seconds, "inputs": {name: what was sent}}')
    time_s, given = fields["time"], fields["inputs"]
    if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not abs(time_s) <= _LATEST_S:
        raise ValueError(f"time {_cut(time_s)} is no number of seconds")
    for name in given:
        if name not in known:
            raise ValueError(f"the ensemble has no input {_cut(name)}; {did_you_mean(name[:_SHOWN], known)}")
    inputs = {name: tuple(_rows(name, given[name])) for name in known if given.get(name) is not None}
    if not inputs:
        raise ValueError("the request has no input at all")
    counts = {name: len(rows) for name, rows in inputs.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"the inputs disagree about the number of rows: {counts}")
    return Request(float(time_s), inputs, line)


def _rows(name: str, given: Any) -> Iterator[Content]:
    for one in given if isinstance(given, list) else [given]:
        yield _content(name, one)


def _content(name: str, given: Any) -> Content:
    if isinstance(given, str) and _is_text(given):
        return Content("hash", given)
    if isinstance(given, dict):
        kinds = [kind for kind in _KINDS if kind in given]
        size = given.get("bytes", 0)
        sized = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if len(kinds) == 1 and set(given) <= {*kinds, "bytes"} and sized:
            value = given[kinds[0]]
            wanted = int if kinds[0] == "sample" else str
            fits = isinstance(value, wanted) and not isinstance(value, bool)
            if fits and (0 <= int(value) <= _MOST_SAMPLE if wanted is int else _is_text(value) and "\0" not in value):
                return Content(kinds[0], str(value))
    raise ValueError(f"input {name!r}: {_cut(given)} says not what was sent")


def _is_text(value: str) -> bool:
    """Say whether a text can be written as UTF-8, and is not empty."""
    return bool(value) and not any("\ud800" <= one <= "\udfff" for one in value)


def _cut(value: Any) -> str:
    text = repr(value) if isinstance(value, str | float) else json.dumps(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _written(content: Content) -> Any:
    if content.kind == "hash":
        return content.value
    return {content.kind: int(content.value) if content.kind == "sample" else content.value}
