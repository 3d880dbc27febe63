"""What every method shares: how it refuses, and how it is told what tensors hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"
#: NumPy's name of each of Triton's types of numbers.
NUMPY_BY_DTYPE = {
    "BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    **{name: name.lower() for name in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")},
}  # fmt: skip


class RefusedError(ValueError):
    """A sample that a method does not take, in words for whoever sent it."""


class Spec(NamedTuple):
    """What a tensor holds of one sample.

    Attributes:
        dtype: Triton's name of the type.
        shape: -1 where a size varies.
    """

    dtype: str
    shape: tuple[int, ...]


#: Stands for a tensor of which nothing is known.
ANY_ROW = Spec("FP32", (-1,))


def content_of(value: Any, max_bytes: int, *, may_be_empty: bool = False) -> bytes:
    """Return the one string of a sample: of an array, or as it is.

    Raises:
        RefusedError: If it is empty, where it may not be, or longer than ``max_bytes``.
    """
    content = value if isinstance(value, str | bytes) else value.reshape(-1)[0]
    content = content.encode() if isinstance(content, str) else bytes(content)
    if not content and not may_be_empty:
        raise RefusedError("is empty")
    if len(content) > max_bytes:
        raise RefusedError(f"has {len(content)} bytes, at most {max_bytes} are taken")
    return content


def one_string(given: Spec) -> None:
    """Check that an input is one string a sample.

    Raises:
        ValueError: If it is not.
    """
    if given.dtype != "BYTES" or any(size not in (1, -1) for size in given.shape):
        raise ValueError(f"takes BYTES of shape [1], not {given.dtype} {list(given.shape)}")
