"""ONNX graphs on disk: one ``.onnx`` file and, where the weights lie outside, ``<name>.data`` beside it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import EngineError
from mmdeploy.core.graph_writing import write_graph

#: Protobuf refuses messages of 2 GiB; what comes near keeps its weights in the data file.
INLINE_LIMIT_BYTES = 1_800_000_000
#: What steps keep beside a graph that is no part of it.
_NOTES = (".json", ".npz")


def load_graph(path: Path, *, weights: bool = True) -> Any:
    """Read an ``onnx.ModelProto``, with or without its external weights.

    Raises:
        EngineError: If the file is not a readable ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=weights)
    except (DecodeError, OSError, onnx.checker.ValidationError) as error:
        raise EngineError(f"{path.name} is not a readable ONNX graph: {error}") from error


def save_graph(model: Any, path: Path) -> None:
    """Write an ``onnx.ModelProto`` with its weights, which near 2 GiB go into ``<name>.data``."""
    import onnx

    if weights_bytes(model) < INLINE_LIMIT_BYTES:
        write_graph(model, path)
        return
    onnx.save(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
    )


def weights_bytes(model: Any) -> int:
    """Return the size of a graph's weights; protobuf's ``ByteSize()`` of it all takes as long as writing the file."""
    from onnx import helper

    return sum(
        math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in _tensors(model)
    )


def copy_graph(source: Path, destination: Path) -> None:
    """Copy a graph under another name, its external weights into ``<new name>.data``.

    A copy and never a hard link: onnx refuses external data with a link count above one.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    if _stands_alone(source) or not any(map(uses_external_data, _tensors(load_graph(source, weights=False)))):
        shutil.copyfile(source, destination)
        return
    onnx.save(
        load_graph(source),
        str(destination),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{destination.name}.data",  # without shapes and axes: ONNX Runtime wants those in the graph
    )


def _stands_alone(graph: Path) -> bool:
    """Say whether no file beside a graph, or below, could hold weights of it: it need not be read to know."""
    return not any(path.is_file() and path != graph and path.suffix not in _NOTES for path in graph.parent.rglob("*"))


def _tensors(model: Any) -> list[Any]:
    constants = [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")]
    return [*model.graph.initializer, *constants]
