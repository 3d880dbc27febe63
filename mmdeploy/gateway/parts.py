"""Takes the body of a request apart: JSON, or a form of files and fields. What comes is a row's values by input.

JSON is strict: no NaN, no key twice. A form is read from memory (its size is bounded before), and must be whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmdeploy.core.errors import did_you_mean
from mmdeploy.gateway.problems import Refused

#: By input's name: a JSON value, or what a form holds of it.
Row: TypeAlias = Mapping[str, Any]

JSON, FORM = "application/json", "multipart/form-data"
_MOST_PARTS = 4096
_NUMBERED = re.compile(r"(?P<name>.+)\[(?P<row>0|[1-9][0-9]{0,5})\]")
_IN_A_FORM = "a form has a part for each input, named like it: curl -F photo=@cat.jpg -F 'caption=a cat'"
_IN_A_BATCH = "name parts after input and row: curl -F 'photo[0]=@cat.jpg' -F 'photo[1]=@owl.jpg'"


@dataclass(frozen=True)
class Part:
    """A part of a form.

    Attributes:
        content: Its bytes.
        filename: None where it is a field and no file.
    """

    content: bytes
    filename: str | None = None


def rows_of(body: bytes, content_type: str, *, batch: bool) -> list[Row]:
    """Return the rows of a request.

    Args:
        body: As it came.
        content_type: The header.
        batch: Whether rows are told apart; else there is one.

    Raises:
        Refused: If it is neither JSON nor a form, or is not whole.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == JSON:
        return _batch_of(parsed(body)) if batch else [_row_of(parsed(body))]
    if media_type == FORM:
        return _of_form(_form(body, content_type), batch=batch)
    raise Refused(
        "unsupported_media_type",
        f"the body is {media_type or 'of no type that the request names'}",
        hint=f"accepted: {JSON} and {FORM}",
    )


def parsed(text: bytes | str, what: str = "the body") -> Any:
    """Return what strict JSON holds.

    Raises:
        Refused: If it is none.
    """
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)
    except RecursionError as error:
        raise Refused("bad_request", f"{what} is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise Refused("bad_request", f"{what} is no JSON: it is not UTF-8") from error
    except ValueError as error:
        raise Refused("bad_request", f"{what} is no JSON: {error}") from error


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number there")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _row_of(given: Any) -> Row:
    fields = checked_object(given, "the body", {"inputs"})
    return checked_object(fields["inputs"], "inputs")


def _batch_of(given: Any) -> list[Row]:
    rows = checked_object(given, "the body", {"rows"})["rows"]
    if not isinstance(rows, list):
        raise Refused("bad_request", f"rows is {json_kind(rows)}, expected a list")
    if not rows:
        raise Refused("bad_request", "rows is empty")
    return [checked_object(row, f"row {at}") for at, row in enumerate(rows)]


def checked_object(given: Any, what: str, keys: set[str] | None = None) -> dict[str, Any]:
    """Return a JSON object that has exactly some keys, where they are told.

    Raises:
        Refused: If it is none.
    """
    shown = f": {{{', '.join(map(json.dumps, sorted(keys)))}: …}}" if keys else ""
    if not isinstance(given, dict):
        raise Refused("bad_request", f"{what} is {json_kind(given)}, expected an object{shown}")
    if keys is not None:
        for key in given:
            if key not in keys:
                raise Refused("bad_request", f"{what} has {key[:80]!r}; {did_you_mean(key, keys)}")
        for key in sorted(keys - set(given)):
            raise Refused("bad_request", f"{what} has no {key!r}, expected{shown}")
    return given


def json_kind(value: Any) -> str:
    """Return what JSON calls the type of a value."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _of_form(parts: Sequence[tuple[str, Part]], *, batch: bool) -> list[Row]:
    rows: dict[int, dict[str, Any]] = {}
    for name, part in parts:
        numbered = _NUMBERED.fullmatch(name) if batch else None
        if batch and numbered is None:
            raise Refused("bad_request", f"the form's part {name[:80]!r} has no row", hint=_IN_A_BATCH)
        own, at = (numbered["name"], int(numbered["row"])) if numbered else (name, 0)
        row = rows.setdefault(at, {})
        if own in row:
            raise Refused("bad_request", f"the form has {name[:80]!r} twice")
        row[own] = part
    if not rows:
        raise Refused("bad_request", "the form is empty", hint=_IN_A_BATCH if batch else _IN_A_FORM)
    if sorted(rows) != list(range(len(rows))):
        lacking = min(set(range(len(rows))) - set(rows))
        raise Refused("bad_request", f"the form has no part of row {lacking}, and one of row {max(rows)}")
    return [rows[at] for at in range(len(rows))]


def _form(body: bytes, content_type: str) -> list[tuple[str, Part]]:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Refused("bad_request", "the form's content type has no boundary", hint=f"as in {FORM}; boundary=…")
    reading = _Reading()
    try:
        parser = MultipartParser(boundary, reading.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused("bad_request", f"the form cannot be read: {error}") from error
    if not reading.ended:
        raise Refused("bad_request", "the form ends too early: its closing boundary is missing")
    return reading.parts


class _Reading:
    """What a parser of forms calls."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, Part]] = []
        self.ended = False
        self._field, self._value = bytearray(), bytearray()
        self._disposition, self._content = b"", bytearray()
        self._name: str = ""
        self._filename: str | None = None

    def callbacks(self) -> dict[str, Any]:
        """Return what is called when."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._headers,
            "on_part_data": lambda data, start, end: self._content.extend(data[start:end]),
            "on_part_end": lambda: self.parts.append((self._name, Part(bytes(self._content), self._filename))),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= _MOST_PARTS:
            raise Refused("too_large", f"the form has more than {_MOST_PARTS} parts")
        self._disposition, self._content = b"", bytearray()

    def _header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _headers(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise Refused("bad_request", "a part of the form has no name", hint=_IN_A_FORM)
        self._name = options[b"name"].decode("utf-8", "replace")
        self._filename = options[b"filename"].decode("utf-8", "replace") if b"filename" in options else None

    def _end(self) -> None:
        self.ended = True
