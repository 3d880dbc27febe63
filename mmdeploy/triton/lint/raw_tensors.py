"""Files that hold one raw tensor: is enough in them?"""

from __future__ import annotations

from pathlib import Path

_BYTES_BY_TYPE = {
    "TYPE_BOOL": 1, "TYPE_UINT8": 1, "TYPE_INT8": 1, "TYPE_UINT16": 2, "TYPE_INT16": 2, "TYPE_FP16": 2, "TYPE_BF16": 2,
    "TYPE_UINT32": 4, "TYPE_INT32": 4, "TYPE_FP32": 4, "TYPE_UINT64": 8, "TYPE_INT64": 8, "TYPE_FP64": 8,
}  # fmt: skip
_LENGTH_BYTES = 4


def byte_problem(path: Path, data_type: str, elements: int, *, exact_strings: bool = False) -> str | None:
    """Say why a file is no raw tensor of a type and a number of elements; None where it is one.

    Triton takes the first bytes of a file that is longer.

    Args:
        path: The file.
        data_type: Such as ``TYPE_FP32``.
        elements: Their number.
        exact_strings: Look into a tensor of strings, each behind its length in four bytes.
    """
    if not path.is_file():
        return "is missing"
    if data_type == "TYPE_STRING":
        return _string_problem(path.read_bytes(), elements) if exact_strings else None
    needed, found = elements * _BYTES_BY_TYPE.get(data_type, 0), path.stat().st_size
    return f"has {found} bytes, of {needed} that it needs" if found < needed else None


def _string_problem(content: bytes, elements: int) -> str | None:
    at = found = 0
    while at < len(content):
        length = int.from_bytes(content[at : at + _LENGTH_BYTES], "little")
        at += _LENGTH_BYTES + length
        found += 1
        if at > len(content):
            return f"ends within string {found}: each is written as its length in four bytes, and then its bytes"
    return None if found == elements else f"holds {found} strings, of {elements} that it needs"
