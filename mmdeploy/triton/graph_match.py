"""Holds the tensors of a config.pbtxt against those of the graph, as Triton's native onnxruntime backend does.

Types must be equal. With ``max_batch_size`` the graph's first dimension must be open and the rest is compared;
without, all is. A size that is open on either side fits any (onnxruntime_backend: CompareDimsSupported).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Triton's names of the element types, by the names that ONNX Runtime gives them (without ``tensor()``).
DTYPE_BY_ORT = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float": "FP32", "double": "FP64", "bfloat16": "BF16", "string": "STRING",
}  # fmt: skip


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        dtype: Triton's name of its type, such as ``FP32``; empty where Triton has none.
        shape: With the batch, -1 where a size is open; None where the graph does not say.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None


def mismatch(tensor: GraphTensor, dtype: str, dims: Sequence[int], *, batched: bool) -> str | None:
    """Say why a tensor of the graph is not what the configuration declares; None where it fits.

    Args:
        tensor: Of the graph.
        dtype: Declared, such as ``FP32``.
        dims: Declared, after ``reshape`` where there is one.
        batched: Whether ``max_batch_size`` is above 0, and so the batch is left out of ``dims``.
    """
    if tensor.dtype and tensor.dtype != dtype:
        return f"it is {tensor.dtype} in the graph, {dtype} in config.pbtxt"
    if not tensor.shape:  # a scalar is not compared, nor is what the graph leaves open
        return None
    shown = f"its shape in the graph is {list(tensor.shape)}"
    if batched and tensor.shape[0] != -1:
        return f"{shown}: with max_batch_size above 0 the first dimension must be open (-1)"
    whole = [-1, *dims] if batched else list(dims)
    fits = len(whole) == len(tensor.shape) and all(
        -1 in (found, declared) or found == declared for found, declared in zip(tensor.shape, whole, strict=True)
    )
    return None if fits else f"{shown}, in config.pbtxt {whole}{', the batch first' if batched else ''}"
