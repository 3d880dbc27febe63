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

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import UsageError, did_you_mean

_KINDS = ("hash", "sample", "file")
_ACCEPTED = 'a hash, {"sample": 17}, {"file": "cat.npy"}, {"hash": "…", "bytes": 150528}, or a list of these'


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
    """

    time_s: float
    inputs: Mapping[str, Rows]

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


def read_trace(path: Path, inputs: Iterable[str]) -> tuple[Request, ...]:
    """Read a trace of requests to an ensemble with these inputs.

    Raises:
        UsageError: Naming the line, if the file is not there, is no trace, or asks for inputs that there are not.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise UsageError(f"{path} cannot be read: {getattr(cause, 'strerror', None) or cause}") from cause
    known, before, requests = tuple(inputs), -math.inf, list[Request]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = _request(json.loads(line), known)
        except json.JSONDecodeError as cause:
            raise UsageError(f"{path}:{number}: not JSON: {cause.msg}") from cause
        except ValueError as cause:
            raise UsageError(f"{path}:{number}: {cause}", hint=f"accepted for an input: {_ACCEPTED}") from cause
        if request.time_s < before:
            raise UsageError(f"{path}:{number}: time {request.time_s:g} is before that of the line above, {before:g}")
        before = request.time_s
        requests.append(request)
    if not requests:
        raise UsageError(f"{path} has no requests")
    return tuple(requests)


def write_trace(path: Path, requests: Iterable[Request]) -> None:
    """Write a trace."""
    path.write_text("".join(f"{request.to_json()}\n" for request in requests), encoding="utf-8")


def _request(fields: Any, known: tuple[str, ...]) -> Request:
    whole = isinstance(fields, dict) and set(fields) == {"time", "inputs"} and isinstance(fields["inputs"], dict)
    if not whole:
        raise ValueError('a request is {"time": seconds, "inputs": {name: what was sent}}')
    time_s, given = fields["time"], fields["inputs"]
    if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not math.isfinite(time_s):
        raise ValueError(f"time {time_s!r} is no number of seconds")
    for name in given:
        if name not in known:
            raise ValueError(f"the ensemble has no input {name!r}; {did_you_mean(name, known)}")
    inputs = {name: tuple(_rows(name, given[name])) for name in known if given.get(name) is not None}
    if not inputs:
        raise ValueError("the request has no input at all")
    counts = {name: len(rows) for name, rows in inputs.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"the inputs disagree about the number of rows: {counts}")
    return Request(float(time_s), inputs)


def _rows(name: str, given: Any) -> Iterator[Content]:
    for one in given if isinstance(given, list) else [given]:
        yield _content(name, one)


def _content(name: str, given: Any) -> Content:
    if isinstance(given, str) and given:
        return Content("hash", given)
    if isinstance(given, dict):
        kinds = [kind for kind in _KINDS if kind in given]
        size = given.get("bytes", 0)
        sized = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if len(kinds) == 1 and set(given) <= {*kinds, "bytes"} and sized:
            value = given[kinds[0]]
            wanted = int if kinds[0] == "sample" else str
            fits = isinstance(value, wanted) and not isinstance(value, bool)
            if fits and (int(value) >= 0 if wanted is int else value):
                return Content(kinds[0], str(value))
    raise ValueError(f"input {name!r}: {json.dumps(given)[:60]} says not what was sent")


def _written(content: Content) -> Any:
    if content.kind == "hash":
        return content.value
    return {content.kind: int(content.value) if content.kind == "sample" else content.value}
