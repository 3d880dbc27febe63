"""ONNX graphs as quantization needs them: named nodes, known types, constants told from activations."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmdeploy.core import graph_passes
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.graph_writing import write_graph
from mmdeploy.engines.graph_files import weights_bytes
from mmdeploy.quantize import gemms

logger = logging.getLogger(__name__)

#: Protobuf's limit is 2 GiB for the whole file; leave room for the graph itself.
_EXTERNAL_DATA_BYTES = 1_900_000_000


def load(path: Path) -> Any:
    """Read a graph; every node gets a name, and every tensor a type where shape inference finds it.

    Gemms are written in the form that quantizers get right: see `mmdeploy.quantize.gemms`.

    Raises:
        QuantizeError: When it cannot be read, or is quantized already.
    """
    import onnx

    try:
        model = onnx.load(path)
    except Exception as cause:
        raise QuantizeError(f"{path.name} cannot be read as ONNX: {cause}") from cause
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise QuantizeError(f"{path.name} is quantized already: it has Q/DQ nodes")
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
            taken.add(node.name)
    gemms.write_plainly(model)
    return model if is_typed(model) else _inferred(model)


def save(model: Any, path: Path) -> None:
    """Write a graph in order, weights beside it in ``<name>.data`` when it is too large for one file.

    ONNX Runtime's quantizers append the nodes that they make at the end, which ONNX Runtime alone takes.
    """
    import onnx

    graph_passes.sort_nodes(model)
    if weights_bytes(model) > _EXTERNAL_DATA_BYTES:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        write_graph(model, path)


def element_types(model: Any) -> dict[str, int]:
    """Return the ONNX element type of every tensor that is known, by name."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {weight.name: weight.data_type for weight in graph.initializer}


def is_typed(model: Any) -> bool:
    """Say whether the element type of everything that nodes compute is known."""
    known = element_types(model)
    return all(name in known for node in model.graph.node for name in node.output if name)


def constants(model: Any) -> set[str]:
    """Return the tensors that do not depend on any input."""
    known = {weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        if all(not name or name in known for name in node.input):
            known.update(node.output)
    return known


def readers(graph: Any) -> dict[str, list[Any]]:
    """Return the nodes that read each tensor; None stands for the world outside, which reads the outputs."""
    found: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    for output in graph.output:
        found.setdefault(output.name, []).append(None)
    return found


def channel_axis(node: Any) -> int:
    """Return the axis of a MatMul's, Gemm's or convolution's weight that counts output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else 1
    return 1  # MatMul [in, out], ConvTranspose [in, out, ...]


def _inferred(model: Any) -> Any:
    import onnx

    if weights_bytes(model) > _EXTERNAL_DATA_BYTES:
        return model
    try:
        return onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError as cause:
        logger.warning("shape inference failed, going on with the types that are known: %s", cause)
        return model
