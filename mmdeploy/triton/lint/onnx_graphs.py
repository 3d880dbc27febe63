"""Rules that hold config.pbtxt against model.onnx (onnxruntime_backend: ValidateInputs, ValidateOutputs)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import did_you_mean
from mmdeploy.triton.graph_match import GraphTensor, mismatch
from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.reading import Model, Repositories

if TYPE_CHECKING:
    import onnx

_LARGEST_BYTES = 2**31 - 1  # what protobuf reads


@functools.lru_cache(maxsize=64)
def _graph(path: Path, changed_ns: int) -> tuple[dict[str, GraphTensor], ...] | None:
    """Return required inputs, inputs that an initializer stands for, and outputs; None where it cannot be read."""
    import onnx
    from google.protobuf.message import DecodeError

    if path.stat().st_size > _LARGEST_BYTES:
        return None
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, OSError, ValueError):
        return None
    if not graph.output:
        return None
    preset = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: _tensor(value) for value in graph.input}
    return (
        {name: tensor for name, tensor in inputs.items() if name not in preset},
        {name: tensor for name, tensor in inputs.items() if name in preset},
        {value.name: _tensor(value) for value in graph.output},
    )


def _tensor(value: onnx.ValueInfoProto) -> GraphTensor:
    from onnx import TensorProto

    found = value.type.tensor_type
    shape = None
    if found.HasField("shape"):
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in found.shape.dim)
    name = TensorProto.DataType.Name(found.elem_type) if found.elem_type else ""
    return GraphTensor(value.name, _DTYPE_BY_ONNX.get(name, ""), shape)


_DTYPE_BY_ONNX = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64", "BFLOAT16": "BF16"} | {
    name: name for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "STRING")
}


def onnx_tensors(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find inputs and outputs that the ONNX graph does not have, or has with another type or shape."""
    if model.backend != "onnxruntime" or model.filename is None:
        return
    for version in model.served_versions:
        path = model.versions[version] / model.filename
        path = path / "model.onnx" if path.is_dir() else path
        graph = _graph(path, path.stat().st_mtime_ns) if path.is_file() else None
        if graph is not None:
            required, preset, outputs = graph
            yield from _differences(model, "input", required | preset)
            yield from _differences(model, "output", outputs)
            yield from _left_out(model, required)


def _differences(model: Model, side: str, tensors: dict[str, GraphTensor]) -> Iterator[Hit]:
    from tritonclient.grpc.model_config_pb2 import DataType

    for index, tensor in enumerate(getattr(model.parsed, side)):
        at = f"{side}[{index}]"
        if tensor.name not in tensors:
            if tensor.name:
                yield Hit(
                    f"the graph has no {side} {tensor.name!r}: {did_you_mean(tensor.name, tensors)}",
                    "use the graph's name",
                    f"{at}.name",
                )
            continue
        if not tensor.dims or not tensor.data_type or getattr(tensor, "allow_ragged_batch", False):
            continue
        dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
        dtype = DataType.Name(tensor.data_type).removeprefix("TYPE_")
        problem = mismatch(tensors[tensor.name], dtype, dims, batched=model.parsed.max_batch_size > 0)
        if problem is not None:
            yield Hit(f"{side} {tensor.name!r}: {problem}", "declare what the graph has, or export it again", at)


def _left_out(model: Model, required: dict[str, GraphTensor]) -> Iterator[Hit]:
    """Find inputs of the graph that nothing feeds; without any in config.pbtxt the backend fills them in."""
    config: Any = model.parsed
    named = {tensor.name for tensor in config.input} | {name for one in config.batch_input for name in one.target_name}
    named |= {tensor.name for tensor in config.sequence_batching.control_input}
    named |= {state.input_name for state in config.sequence_batching.state}
    for name in required:
        if config.input and name not in named:
            yield Hit(f"the graph's input {name!r} is not in config.pbtxt", "add it", "input")
