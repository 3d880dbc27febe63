"""BYTES tensors: object arrays of `bytes` in NumPy, each element behind its length in four bytes on the wire.

Triton's type for both text and files. What an element means, its reader decides: text is UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Array

#: Triton's name of the type.
BYTES = "BYTES"
_LENGTH = struct.Struct("<I")
_LARGEST = 2**32 - 1


def as_strings(value: object) -> Array | None:
    """Return text or bytes, alone or in sequences and arrays, as an object array of `bytes`; None for anything else.

    One alone becomes an array of one, as Triton has no scalars.
    """
    import numpy as np

    if isinstance(value, str | bytes | bytearray | memoryview):
        value = [value]
    if isinstance(value, np.ndarray):
        flat, shape = value.ravel().tolist(), value.shape
    elif isinstance(value, Sequence):
        flat, shape = list(value), (len(value),)
    else:
        return None
    found = np.empty(len(flat), dtype=object)
    for index, one in enumerate(flat):
        if not isinstance(one, str | bytes | bytearray | memoryview):
            return None
        found[index] = one.encode("utf-8", "surrogateescape") if isinstance(one, str) else bytes(one)
    return found.reshape(shape)


def packed(array: Array) -> bytes:
    """Return the elements of an array of strings as Triton sends them, in C order.

    Raises:
        ValueError: If an element is neither bytes nor text, or longer than four bytes can say.
    """
    parts: list[bytes] = []
    for one in array.ravel().tolist():
        content = one.encode("utf-8", "surrogateescape") if isinstance(one, str) else one
        if not isinstance(content, bytes | bytearray):
            raise ValueError(f"holds {type(one).__name__}, expected bytes or text")  # noqa: TRY004 - as unpacked
        if len(content) > _LARGEST:
            raise ValueError(f"holds a string of {len(content)} bytes, more than a tensor can carry")
        parts += (_LENGTH.pack(len(content)), bytes(content))
    return b"".join(parts)


def unpacked(raw: bytes | memoryview, shape: Sequence[int]) -> Array:
    """Return the strings that Triton sent, as an array of a shape.

    Raises:
        ValueError: If they are not as many, or end within one.
    """
    import numpy as np

    view, found, at = memoryview(raw), list[Any](), 0
    while at < len(view):
        if at + _LENGTH.size > len(view):
            raise ValueError("ends within the length of a string")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size + length
        if at > len(view):
            raise ValueError("ends within a string")
        found.append(bytes(view[at - length : at]))
    array = np.empty(len(found), dtype=object)
    array[:] = found
    return array.reshape(tuple(shape))


def nbytes(array: Array) -> int:
    """Return the bytes that an array of any type holds; of strings those of their contents and lengths."""
    if array.dtype != object:
        return int(array.nbytes)
    return sum(len(one) + _LENGTH.size for one in array.ravel().tolist())


def text_of(content: bytes) -> str:
    """Return bytes as text for people; what is no UTF-8 is shown escaped."""
    return content.decode("utf-8", "backslashreplace")
